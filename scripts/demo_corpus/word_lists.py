"""Lists of words that go across the topics: names, manners, and what a verb or a noun does not put up with.

In: nothing. Out: constants. Knows no grammar; the words of one topic are in `topics`.
"""


def _words(text: str) -> list[str]:
    """Return the words of a text: one long line reads better than a list of forty strings."""
    return text.split()


def _word_set(text: str) -> set[str]:
    return set(_words(text))


WOMEN = _words("Ada Greta Nadia Priya Lena Mei Rosa Ingrid Clara Amina")
MEN = _words("Tomas Oscar Ivan Kofi Hugo Samir Felix Mateo Jonas Theo")
NAMES = dict.fromkeys(WOMEN, "f") | dict.fromkeys(MEN, "m")  # and the gender of each
SURNAMES = _words("Harlow Okafor Lindqvist Marsh Petrov Brandt Ferrara Nakamura Dunmore Castell")
CITIES = _words("Bergen Lisbon Porto Leeds Dublin Ghent Riga Oslo")
WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
NUMERALS = [*_words("two three four five six") * 8, *_words("seven eight nine ten twelve")]
PERSON_ADJECTIVES = _words(
    "young old tall tired cheerful patient nervous quiet clever busy kind careful elderly impatient"
)
FREQUENCIES = _words("often usually always rarely sometimes never")
HUMS = _words("hum smile whistle sigh yawn grumble")
TENSES = _words("past past past past_progressive perfect past_perfect modal:could modal:must modal:will")

# Verbs.

# Which manner suits which verb; a verb in neither list takes none.
SLOW_VERBS = _word_set("""
    slice peel carry weigh cover plant trim copy read draw correct write explain mend lower steer tie study check
    seal sharpen drill saw polish repair build paint bend oil shape measure test glue take_apart tune mark clean
    change examine push sterilise bandage brush shear milk lead load pack fill translate count compare stir pour
    prepare solve
""")
QUICK_VERBS = _word_set("""
    wash sign lock close open hide sweep gather pull_in pull_up switch_off wipe swallow pack cross sell
""")
SLOW_MANNERS, QUICK_MANNERS = _words("carefully slowly patiently"), _words("quickly calmly")
CONSUMING = {"eat", "drink", "swallow", "shred", "sell"}  # verbs after which there is nothing left to show
# Verbs that sound cut off without a place.
INCOMPLETE = {"look", "listen", "stare", "bow", "work", "climb", "walk", "stand", "sit", "run", "swim", "hurry"}
GAINING = {"buy", "find", "catch", "win", "spot", "plant", "build"}  # verbs whose object is not yet the subject's own

# Nouns.

# What people may own; the rest takes no possessor.
OWNABLE = _word_set("""
    knife spoon jug pot bowl glass plate kettle pan recipe cup bread_knife pie cake rose spade rake ladder mower
    basket wheelbarrow hedge lawn fence shed gate bench brush pencil letter poem essay story homework lunch_box bag
    exercise_book dictionary ruler picture net rope sail boat oar compass telescope chart hook raft lamp key report
    contract email folder umbrella coffee speech calendar plan password computer receipt hammer saw drill bicycle
    clock toolbox glove vase stool chair robot machine sketch cart song violin guitar flute piano drum trumpet banjo
    score dress case solo bow suitcase ticket newspaper passport camera sandwich seat guidebook cow goat horse sheep
    pig calf dog cat tractor field barn tooth wound arm pulse bandage pillow blanket mask crutch shears screwdriver
    spanner pen calculator cloth sponge mistake
""")
# One of a kind, or kin: odd in the plural or with a numeral.
SOLITARY = _word_set("""
    headmaster captain director manager chef conductor grandmother grandfather nephew niece drummer vet
""")
# What can be compared, by domain: a quality in its comparative, then the things.
COMPARABLE = {
    "kitchen": ("heavy heavier kettle tray pot pan", "sweet sweeter pie cake apple sauce"),
    "garden": ("tall taller hedge tree ladder fence scarecrow", "old older spade rake mower bench"),
    "school": ("long longer poem essay story letter", "heavy heavier globe bag dictionary"),
    "sea": ("old older boat lighthouse wreck pier", "large larger whale seal dolphin crab"),
    "office": ("long longer report letter contract email", "slow slower printer lift computer"),
    "workshop": ("heavy heavier hammer drill toolbox vase", "old older bicycle clock robot engine"),
    "music": ("old older violin guitar piano trumpet banjo", "long longer song solo duet waltz"),
    "railway": ("heavy heavier suitcase bag parcel", "slow slower train bus ferry taxi"),
    "farm": ("old older tractor barn plough cart", "large larger cow horse pig goat dog"),
    "hospital": ("small smaller syringe bottle thermometer", "heavy heavier wheelchair machine book"),
}
STILL = ("in", "on", "under", "near", "behind")  # prepositions of a thing that stays where it is
CONTRASTS = (
    ("tired", "cheerful"), ("nervous", "polite"), ("busy", "patient"), ("hungry", "patient"), ("clever", "stubborn"),
    ("angry", "polite"), ("ill", "cheerful"), ("strict", "kind"), ("shy", "curious"), ("late", "calm"),
)  # fmt: skip
