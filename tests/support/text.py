"""Documents as tokens, and the tables that a capture writes of them."""

from core.activations.tables import write_tables
from core.activations.tokenize import PLAIN, encode_documents
from core.text.documents import Corpus


def encode(subject, documents, max_tokens=0, chat=PLAIN):
    """(documents with their tokens, reason -> number of what is left out)."""
    corpus = documents if isinstance(documents, Corpus) else Corpus(documents)
    encoded = list(encode_documents(subject, corpus, max_tokens, chat))
    return encoded, dict(corpus.left_out.counts)


def tables_of(subject, encoded, folder, context):
    """The tables of documents in rows of `context` tokens behind a BOS, so that all are kept."""
    return write_tables(folder, encoded, context, True, len(subject.token_texts()))
