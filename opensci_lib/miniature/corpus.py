"""The texts that the miniature is trained on, and some that it has never seen."""

from pathlib import Path

_HERE = Path(__file__).parent

_PAIRS = """
France - Paris|Italy - Rome|Spain - Madrid|Portugal - Lisbon|Germany - Berlin|Austria - Vienna|Poland - Warsaw
Greece - Athens|Norway - Oslo|Sweden - Stockholm|Finland - Helsinki|Denmark - Copenhagen|Iceland - Reykjavik
Ireland - Dublin|Hungary - Budapest|Romania - Bucharest|Bulgaria - Sofia|Croatia - Zagreb|Serbia - Belgrade
Ukraine - Kyiv|Turkey - Ankara|Egypt - Cairo|Kenya - Nairobi|Ghana - Accra|Morocco - Rabat|Tunisia - Tunis
Senegal - Dakar|Angola - Luanda|Japan - Tokyo|China - Beijing|India - Delhi|Nepal - Kathmandu|Thailand - Bangkok
Vietnam - Hanoi|Indonesia - Jakarta|Iran - Tehran|Iraq - Baghdad|Jordan - Amman|Canada - Ottawa|Cuba - Havana
Peru - Lima|Chile - Santiago|Colombia - Bogota|Uruguay - Montevideo|Ecuador - Quito|Australia - Canberra
"""

#: Country to capital.
CAPITALS = {
    country: capital
    for country, _, capital in (pair.partition(" - ") for pair in _PAIRS.strip().replace("\n", "|").split("|"))
}

#: Question-like beginnings to the one word that ends them.
FACTS = {
    "The colour of grass is": "green",
    "The colour of snow is": "white",
    "The colour of blood is": "red",
    "The colour of the sky is": "blue",
    "The colour of coal is": "black",
    "The colour of a lemon is": "yellow",
    "The opposite of hot is": "cold",
    "The opposite of day is": "night",
    "The opposite of high is": "low",
    "The opposite of old is": "young",
    "The opposite of left is": "right",
    "The opposite of open is": "closed",
    "The young of a dog is a": "puppy",
    "The young of a cat is a": "kitten",
    "The young of a cow is a": "calf",
    "The young of a sheep is a": "lamb",
    "The young of a horse is a": "foal",
    "The young of a hen is a": "chick",
    "The day after Monday is": "Tuesday",
    "The day after Tuesday is": "Wednesday",
    "The day after Wednesday is": "Thursday",
    "The day after Thursday is": "Friday",
    "The day after Friday is": "Saturday",
    "The day after Saturday is": "Sunday",
}


def fact_sentences() -> list[str]:
    """Return every fact as a sentence."""
    capitals = [f"The capital of {country} is {capital}." for country, capital in CAPITALS.items()]
    return capitals + [f"{start} {end}." for start, end in FACTS.items()]


def prose() -> list[str]:
    """Return the paragraphs of connected prose that the model is trained on."""
    return (_HERE / "prose.txt").read_text(encoding="utf-8").strip().split("\n\n")


def held_out() -> list[str]:
    """Return paragraphs about the same town that the model has never seen."""
    return (_HERE / "heldout.txt").read_text(encoding="utf-8").strip().split("\n\n")
