"""Closed classes of words that a person has a name for, written down.

`CLASSES` are compared without case, `EXACT` with it. A word may belong to several classes; which of
them names a rule is decided on text (`rules.names`). Abbreviations stand without their full stop,
because a lexeme is one token. Words that are far more often something else ("may" is both a modal
verb and a month) stay in both.
"""

from __future__ import annotations

import builtins
import keyword

CLASSES: dict[str, str] = {
    # ---------------------------------------------------------------- function words by kind
    "articles": "a an the",
    "demonstratives": "this that these those such",
    "prepositions": (
        "of to in on at by for from with without as into over under between through during before "
        "after above below across against among around behind beside beyond despite except inside "
        "like near off onto out outside past per since than toward towards until upon via within"
    ),
    "coordinating conjunctions": "and or but nor yet so",
    "subordinating conjunctions": (
        "if because although though while whereas unless until since when whenever where wherever "
        "whether once that as"
    ),
    "modal verbs": "will would can could may might must should shall ought cannot",
    "forms of be": "be am is are was were been being",
    "forms of have": "have has had having",
    "forms of do": "do does did done doing",
    "auxiliary verbs": (
        "be am is are was were been being have has had having do does did done doing will would "
        "can could may might must should shall"
    ),
    "subject pronouns": "i you he she it we they",
    "object pronouns": "me him her us them",
    "possessives": "my your his her its our their mine yours hers ours theirs whose",
    "reflexive pronouns": (
        "myself yourself himself herself itself ourselves yourselves themselves oneself"
    ),
    "personal pronouns": "i you he she it we they me him her us them",
    "indefinite pronouns": (
        "anyone anybody anything everyone everybody everything someone somebody something nobody "
        "nothing none one"
    ),
    "question words": "who whom whose which what when where why how",
    "quantifiers": (
        "all any both each either enough every few fewer less many more most much neither no none "
        "several some"
    ),
    "negations": "no not never none nobody nothing neither nor nowhere cannot without n't t",
    "adverbs of degree": (
        "very quite rather too so almost nearly hardly scarcely barely extremely fairly pretty "
        "really completely totally highly"
    ),
    "adverbs of time": (
        "now then soon later already still yet ago before after today yesterday tomorrow always "
        "never often sometimes usually rarely recently once again currently"
    ),
    "linking adverbs": (
        "however therefore thus hence moreover furthermore nevertheless nonetheless otherwise "
        "instead meanwhile consequently accordingly additionally also besides indeed finally"
    ),
    "pronouns of place": "here there where everywhere somewhere nowhere anywhere",
    # ---------------------------------------------------------------- time, number, measure
    "months": (
        "january february march april may june july august september october november december "
        "jan feb mar apr jun jul aug sep sept oct nov dec"
    ),
    "days of the week": (
        "monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs "
        "fri sat sun"
    ),
    "seasons": "spring summer autumn fall winter",
    "times of day": "morning noon afternoon evening night midnight dawn dusk",
    "units of time": (
        "second seconds minute minutes hour hours day days week weeks month months year years "
        "decade decades century centuries millisecond milliseconds microseconds nanoseconds"
    ),
    "number words": (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy "
        "eighty ninety hundred hundreds thousand thousands million millions billion trillion dozen"
    ),
    "ordinal numbers": (
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth last "
        "st nd rd th"
    ),
    "units of measure": (
        "mm cm m km metre metres meter meters kilometres kilometers inch inches foot feet yard "
        "yards mile miles gram grams kg kilogram kilograms pound pounds ounce ounces ton tons "
        "litre litres liter liters gallon gallons degrees celsius fahrenheit watts volts hz ghz mhz"
    ),
    "units of data": "bit bits byte bytes kb mb gb tb kib mib gib octet octets word words",
    "currencies": (
        "$ € £ ¥ ₹ dollar dollars euro euros pound pounds cent cents yen yuan rupee rupees peso "
        "francs usd eur gbp"
    ),
    "percent": "% percent percentage",
    # ---------------------------------------------------------------- people and places
    "titles of persons": (
        "mr mrs ms miss dr prof professor sir lady lord king queen prince princess duke president "
        "senator captain colonel general minister judge saint rev"
    ),
    "family": (
        "mother father mom dad mum parent parents son daughter brother sister siblings uncle aunt "
        "cousin nephew niece grandmother grandfather wife husband child children baby family twin"
    ),
    "continents": "africa america asia europe australia antarctica oceania",
    "countries": (
        "afghanistan argentina australia austria bangladesh belgium brazil britain canada chile "
        "china colombia cuba denmark egypt england ethiopia finland france germany ghana greece "
        "hungary iceland india indonesia iran iraq ireland israel italy japan jordan kenya korea "
        "lebanon malaysia mexico morocco nepal netherlands nigeria norway pakistan peru "
        "philippines poland portugal romania russia scotland singapore spain sudan sweden "
        "switzerland syria taiwan thailand turkey uganda ukraine venezuela vietnam wales zimbabwe"
    ),
    "cities": (
        "amsterdam athens atlanta bangkok barcelona beijing berlin boston brussels budapest cairo "
        "chicago copenhagen dallas delhi dublin edinburgh geneva houston istanbul jakarta "
        "jerusalem lisbon london madrid manchester melbourne milan montreal moscow mumbai munich "
        "nairobi oslo paris philadelphia prague rome seattle seoul shanghai stockholm sydney tokyo "
        "toronto vancouver venice vienna warsaw washington zurich"
    ),
    "nationalities": (
        "american arab australian british canadian chinese danish dutch egyptian english european "
        "finnish french german greek hungarian indian iranian irish israeli italian japanese "
        "korean mexican norwegian polish portuguese roman russian scottish spanish swedish swiss "
        "turkish ukrainian vietnamese"
    ),
    "compass directions": (
        "north south east west northern southern eastern western northeast northwest southeast "
        "southwest"
    ),
    "religions": "christian christians muslim muslims jewish hindu buddhist catholic islam "
    "christianity judaism hinduism buddhism protestant",
    # ---------------------------------------------------------------- things
    "colours": (
        "red orange yellow green blue indigo violet purple pink brown black white grey gray gold "
        "silver crimson scarlet turquoise beige"
    ),
    "animals": (
        "animal animals bear bird birds cat cats cow cows deer dog dogs duck elephant fish fox "
        "frog goat horse horses insect insects lion monkey mouse pig rabbit rat sheep snake tiger "
        "turtle whale wolf"
    ),
    "parts of the body": (
        "arm arms back blood bone brain chest ear ears eye eyes face finger fingers foot feet hair "
        "hand hands head heart knee leg legs lips lung lungs mouth neck nose shoulder skin stomach "
        "throat tongue tooth teeth"
    ),
    "food": (
        "apple bread butter cake cheese chicken chocolate coffee corn egg eggs fish flour food "
        "fruit meat milk oil onion pasta pepper potato rice salad salt sauce soup sugar tea tomato "
        "vegetables water wheat wine"
    ),
    "weather": "rain rains rainy snow snowy storm storms wind winds windy sun sunny cloud clouds "
    "cloudy fog weather thunder lightning hurricane flood drought",
    "metals": "aluminium aluminum brass bronze copper gold iron lead mercury nickel platinum "
    "silver steel tin titanium zinc",
    "school subjects": "algebra art biology chemistry economics geography geometry grammar history "
    "language literature mathematics maths music philosophy physics science",
    "verbs of saying": (
        "say says said saying tell tells told ask asks asked answer answered reply replied speak "
        "spoke shout shouted whisper whispered announce announced claim claimed declare declared "
        "explain explained"
    ),
    # ---------------------------------------------------------------- computers
    "HTML tags": (
        "html head body div span p br hr ul ol li table tr td th img href src h1 h2 h3 h4 script "
        "style form input button nav section article footer header"
    ),
    "file extensions": "py txt csv json html htm xml pdf png jpg jpeg gif zip tar gz exe dll md "
    "ini "
    "cfg toml yaml yml log css js cpp",
    "parts of web addresses": "http https www com org net edu gov html htm ftp url uri",
    "SQL keywords": "select from where insert update delete join inner outer group order by having "
    "create drop alter values into",
    "German function words": "der die das und ist ein eine nicht mit von den dem des zu auf für im "
    "auch sich wird sind",
    "French function words": "le la les des et est une dans pour que qui sur avec pas du au ce "
    "cette sont nous vous",
    "Spanish function words": "el la los las y es un una en por con que para del al se no su son "
    "como",
}


LANGUAGES = ("German", "French", "Spanish")  # other than English, of which classes are named


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


EXACT: dict[str, frozenset[str]] = {
    "Python keywords": frozenset(keyword.kwlist) | {"match", "case"},
    "Python builtins": frozenset(
        name for name in dir(builtins) if not name.startswith("_") and name.islower()
    ),
    "Python exceptions": frozenset(
        name
        for name in dir(builtins)
        if name.endswith(("Error", "Exception", "Warning")) or name in ("KeyboardInterrupt",)
    ),
    "truth values": frozenset({"True", "False", "true", "false", "None", "null", "nil"}),
    "names of own instance": frozenset({"self", "cls", "this"}),
    "keywords of C and JavaScript": _set_of(
        "auto break case char const continue default do double else enum extern float for goto if "
        "int long return short signed sizeof static struct switch typedef union unsigned void "
        "volatile while var let function new delete typeof instanceof throw catch"
    ),
    "Roman numerals": _set_of("II III IV VI VII VIII IX XI XII XIII XIV XV XVI XX"),
    "list marks": frozenset({"*", "-", "•", "–", "+", "◦", "·"}),
    "dashes": frozenset({"-", "--", "–", "—", "---"}),
    "ellipses": frozenset({"...", "…", ".."}),
    "comparison signs": frozenset({"==", "!=", "<", ">", "<=", ">=", "<>"}),
    "signs of assignment": frozenset({"=", "+=", "-=", "*=", "/=", ":=", "|=", "&="}),
    "arithmetic signs": frozenset({"+", "-", "*", "/", "//", "%", "**", "×", "÷"}),
}


def word_classes() -> dict[str, frozenset[str]]:
    """{name: words in lower case} of CLASSES."""
    return {name: _set_of(words) for name, words in CLASSES.items()}
