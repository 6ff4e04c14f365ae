"""A subject whose layers lie on several devices. There is one device here, so the split is a fake:
layer 2 is on `meta`, whose tensors have a shape and no numbers, and which refuses to compute with
tensors of the CPU.
"""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

from core.errors import UsageError
from core.records import Site
from core.subject.hooks import skip_modules
from core.subject.subject import Subject
from core.subject.weights import check_placed
from tests.support.tiny import FAMILY_NAMES, byte_level_tokenizer, tiny_model, token_rows

META = torch.device("meta")


def split_subject(family="llama"):
    """The last layer, and what follows it, on meta."""
    subject = Subject(tiny_model(family), byte_level_tokenizer())
    layers = [subject.module(Site.parse(f"resid_post.{n}"))[0] for n in range(3)]
    last = [subject.model.get_submodule(subject.final_norm), subject.model.get_output_embeddings()]
    for module in (layers[2], *last):
        module.to(META)
        add_hook_to_module(module, AlignDevicesHook(execution_device="meta", io_same_device=False))
    for module in layers[:2]:
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=False))
    return subject


def test_a_site_is_read_where_it_is():
    subject, tokens = split_subject(), token_rows(2, 6)
    whole = Subject(tiny_model("llama"), byte_level_tokenizer())
    near, far = Site.parse("resid_post.1"), Site.parse("resid_post.2")
    assert torch.equal(subject.read(near, tokens), whole.read(near, tokens))
    assert subject.read(far, tokens).device == META
    assert subject.read(far, tokens).shape == whole.read(far, tokens).shape


@pytest.mark.parametrize(
    "site", ["resid_post.2", "mlp_out.2", "resid_pre.2", "attn_out.2", "resid_post.1"]
)
def test_an_edit_is_moved_to_the_device_of_its_site(site):
    """What an edit returns is on the CPU, as an SAE's is; the site's layer computes with it."""
    subject, tokens = split_subject(), token_rows(2, 6)
    new = torch.ones(2, 6, subject.width)
    seen = []

    def see(hidden):
        seen.append(hidden.device.type)
        return new

    with subject.hook(Site.parse(site), see):
        logits = subject.model(input_ids=tokens, use_cache=False).logits
    assert logits.device == META and logits.shape == (2, 6, 320)
    assert len(seen) == 1


def test_hidden_states_come_to_an_edit_on_the_subjects_device():
    subject, tokens = split_subject(), token_rows(2, 6)
    subject.device = META  # as if the SAE were there and this site's layer elsewhere
    devices = []

    def edit(hidden, editable):
        devices.append(hidden.device)
        return torch.zeros(hidden.shape)

    with torch.inference_mode():
        subject._logits(tokens, Site.parse("resid_post.0"), edit)
    assert devices == [META]


def test_without_the_move_meta_refuses(monkeypatch):
    """The fake can fail: a value that stays on the CPU ends the pass."""
    subject, tokens = split_subject(), token_rows(2, 6)
    module = subject.module(Site.parse("mlp_out.2"))[0]
    handle = module.register_forward_hook(lambda *_: torch.ones(2, 6, subject.width))
    with pytest.raises(RuntimeError, match="device"):
        subject.model(input_ids=tokens, use_cache=False)
    handle.remove()


def test_skipped_layers_are_placed_again_as_they_were():
    subject, tokens = split_subject(), token_rows(2, 6)
    layer = subject.model.model.layers[1]
    own = vars(layer)["forward"]
    with skip_modules([layer], torch.zeros(2, 6, subject.width)):
        assert vars(layer)["forward"] is not own
    assert vars(layer)["forward"] is own
    assert subject.read(Site.parse("resid_post.1"), tokens).shape == (2, 6, subject.width)


def test_a_subject_that_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="does not fit") as raised:
        check_placed(split_subject().model)
    assert "GPU" in raised.value.next_step


@pytest.mark.parametrize("weights", ["trained", "random"])
def test_all_devices_of_this_machine_give_what_one_gives(subject_folder, weights):
    one, every = (
        Subject.load(subject_folder, "", device, "float32", weights)
        for device in ("cpu", "auto:all")
    )
    tokens, site = token_rows(2, 6), Site.parse("mlp_out.1")
    edit = lambda hidden, editable: torch.where(editable[..., None], hidden + 1, hidden)
    assert torch.equal(one.read(site, tokens), every.read(site, tokens).cpu())
    assert torch.equal(one.logits(tokens, site, edit), every.logits(tokens, site, edit).cpu())
    texts = [
        s.generate(["the cat"], 4, site, temperature=0.0, edit=edit)[0].text for s in (one, every)
    ]
    assert texts[0] == texts[1]
    directions = torch.randn(3, one.width)
    assert torch.equal(one.logit_lens(directions), every.logit_lens(directions).cpu())


@pytest.mark.parametrize("family", [name for name in FAMILY_NAMES if name != "mixtral"])
def test_edits_and_hidden_states_move_in_every_family(family):
    """Mixtral's experts are chosen by numbers, which meta has not."""
    subject, tokens = split_subject(family), token_rows(2, 6)
    for site in ("resid_post.1", "resid_post.2", "mlp_out.2"):
        with subject.hook(Site.parse(site), lambda hidden: torch.ones(hidden.shape)):
            logits = subject.model(input_ids=tokens, use_cache=False).logits
        assert (logits.device, logits.shape) == (META, (2, 6, 320))
