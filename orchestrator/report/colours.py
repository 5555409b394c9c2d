"""The colours of figures and pages."""

# Okabe and Ito's colours, told apart with every common colour vision; yellow and sky are too pale
# for lines on white.
INK, MUTED, GRID, PAPER, SOFT = "#16191d", "#5b636d", "#dfe3e8", "#fefefe", "#eef1f4"
SERIES = ("#0072b2", "#d55e00", "#00875f", "#b8528c", "#a87400", "#4b5fc4")
DARK_SERIES = ("#58b4ea", "#ff9a52", "#3ec99a", "#e79cc8", "#e0b040", "#9aa8ff")
COLOURS = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", SOFT: "soft"} | {
    colour: f"series-{i}" for i, colour in enumerate(SERIES, start=1)
}
