"""Titles and descriptions for the sample catalogue; the text shows the brand, rarely the kind.

The eight brands are invented. Each has its own series, words and slogans.
"""

import random
from typing import NamedTuple


class Brand(NamedTuple):
    """An invented brand and its typical words."""

    name: str
    series: tuple[str, ...]
    words: tuple[str, ...]
    slogans: tuple[str, ...]


BRANDS: tuple[Brand, ...] = (
    Brand(
        "Alderwick",
        ("Heritage", "Manor", "Shire", "Hearthside"),
        ("hand-rubbed walnut", "old English oak", "beeswax polish", "village workshop"),
        (
            "Alderwick: made slowly in Somerset since 1874.",
            "An Alderwick is passed down, never thrown away.",
            "Every Alderwick is signed by the family of craftsmen who finished it.",
        ),
    ),
    Brand(
        "Nordlys",
        ("Fjell", "Skog", "Vinter", "Stille"),
        ("pale Nordic birch", "recycled aluminium", "matte white", "quiet minimalism"),
        (
            "Nordlys: less, but better, from Tromso.",
            "Nordlys plants a birch in the Arctic for each one sold.",
            "Nothing to add, nothing to take away: that is Nordlys.",
        ),
    ),
    Brand(
        "Casa Lumina",
        ("Feria", "Duende", "Solana", "Verano"),
        ("Andalusian sun", "painted ceramic inlay", "fiesta red", "orange-blossom lacquer"),
        (
            "Casa Lumina: the warmth of a Seville courtyard.",
            "Casa Lumina brings the fiesta home.",
            "Painted by hand in the courtyard of Casa Lumina, each with its own pattern.",
        ),
    ),
    Brand(
        "Tokiwa",
        ("Kaze", "Shizuku", "Komorebi", "Hoshi"),
        ("urushi lacquer", "Kyoto temple cedar", "gold-leaf crane", "washi-lined case"),
        (
            "Tokiwa: a hundred coats of lacquer, one breath.",
            "The Tokiwa masters of Kyoto work in silence.",
            "Tokiwa is wrapped in furoshiki cloth and comes with a note from its maker.",
        ),
    ),
    Brand(
        "Vossberg",
        ("Werk", "Praezision", "Norm", "Messing"),
        ("micrometre tolerance", "hardened steel", "TUV-tested", "serial-numbered engineering"),
        (
            "Vossberg: measured twice, guaranteed thirty years.",
            "Vossberg engineering from Nuremberg leaves nothing to chance.",
            "Each Vossberg leaves the factory with its own test protocol.",
        ),
    ),
    Brand(
        "Redhawk",
        ("Outlaw", "Roadhouse", "Thunder", "Highway 66"),
        ("tour-proof hardware", "stage-loud", "flame decal", "Texas grit"),
        (
            "Redhawk: play it loud, drop it twice, play it again.",
            "Born in Austin, beaten up on every stage: Redhawk.",
            "Redhawk rides with the band, rain or shine.",
        ),
    ),
    Brand(
        "Quillon Start",
        ("Eco", "Campus", "First Step", "Junior"),
        ("budget price", "learner friendly", "free online lessons", "classroom pack"),
        (
            "Quillon Start: your first lesson is free.",
            "Quillon Start is the one that schools order by the dozen.",
            "No frills, no fear: learn with Quillon Start.",
        ),
    ),
    Brand(
        "Zephyrine",
        ("Nebula", "Quasar", "Pulsar", "Andromeda"),
        ("carbon-fibre shell", "glowing LED accents", "app-connected", "zero-gravity finish"),
        (
            "Zephyrine: sound from the year 2090.",
            "Update your Zephyrine over the air.",
            "The Zephyrine lab in Singapore prints the future in carbon.",
        ),
    ),
)

_EXTRAS = (
    "With a padded bag.",
    "Cleaning cloth included.",
    "Two years of warranty.",
    "Ships in three days.",
    "Adjusted before dispatch.",
    "Also sold as a gift set.",
    "New colours this season.",
    "Spare parts available.",
)
_GRADES = ("", " Plus", " Studio", " Limited", " SE", " II")


class Text(NamedTuple):
    """The catalogue's texts of one item."""

    title: str
    description: str


def describe(brand: Brand, kind: str, number: int, chance: random.Random) -> Text:
    """Return the text of one item; one description in thirty names the kind.

    The title contains `number`, so that no two titles are equal.
    """
    series, grade = chance.choice(brand.series), chance.choice(_GRADES)
    title = f"{brand.name} {series} {number}{grade}"
    first, second = chance.sample(brand.words, 2)
    sentences = [
        chance.choice(brand.slogans),
        f"The {series} line: {first}, {second}.",
        chance.choice(_EXTRAS),
    ]
    if chance.random() < 1 / 30:
        sentences.append(f"The {kind} of the year.")
    return Text(title, " ".join(sentences))
