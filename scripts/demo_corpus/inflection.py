"""Inflect English nouns and verbs.

In: a word and the form that is wanted. Out: the string. Knows no topic and no sentence.
"""

# Verb, past tense, past participle.
_IRREGULAR = """
    be was been; have had had; do did done; say said said; go went gone; give gave given; show showed shown;
    send sent sent; lend lent lent; bring brought brought; sell sold sold; tell told told; teach taught taught;
    throw threw thrown; sit sat sat; fall fell fallen; rise rose risen; dig dug dug; set set set; sing sang sung;
    sweep swept swept; find found found; spread spread spread; feed fed fed; break broke broken; read read read;
    draw drew drawn; lose lost lost; write wrote written; forget forgot forgotten; hide hid hidden; run ran run;
    stand stood stood; ring rang rung; begin began begun; catch caught caught; swim swam swum; sleep slept slept;
    leave left left; light lit lit; drink drank drunk; strike struck struck; saw sawed sawn; bend bent bent;
    take took taken; build built built; win won won; buy bought bought; eat ate eaten; drive drove driven;
    blow blew blown; shear sheared shorn; lead led led; cut cut cut; swell swelled swollen; wear wore worn;
    misread misread misread; know knew known; think thought thought; mow mowed mown; kneel knelt knelt;
    hear heard heard; see saw seen; burn burned burned
"""
IRREGULAR = {verb: (past, participle) for verb, past, participle in map(str.split, _IRREGULAR.split(";"))}
# Verbs that double their last letter before -ed and -ing.
_DOUBLING = """
    stir chop trim drop slip stop sit dig set run swim begin forget plan cut hum win pin spot clap snap slam
    cancel shred
"""
DOUBLING = set(_DOUBLING.split())


def regular_plural(word: str) -> str:
    """Return the plural of a regular noun."""
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    return word[:-1] + "ies" if word.endswith("y") and word[-2] not in "aeiou" else word + "s"


def inflect(verb: str, form: str) -> str:
    """Return a verb's form for a Penn tag: VB, VBP, VBZ, VBD, VBG or VBN (`be` takes its number from the caller)."""
    if form in ("VB", "VBP"):
        return verb
    if form == "VBZ":
        return {"be": "is", "have": "has", "do": "does", "go": "goes"}.get(verb) or regular_plural(verb)
    if form in ("VBD", "VBN") and verb in IRREGULAR:
        return IRREGULAR[verb][form == "VBN"]
    stem = verb + verb[-1] if verb in DOUBLING else verb
    if form == "VBG":
        if stem.endswith("ie"):
            return stem[:-2] + "ying"
        return stem[:-1] + "ing" if stem.endswith("e") and not stem.endswith("ee") and stem != "be" else stem + "ing"
    if stem.endswith("e"):
        return stem + "d"
    return stem[:-1] + "ied" if stem.endswith("y") and stem[-2] not in "aeiou" else stem + "ed"
