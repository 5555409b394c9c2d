"""Numbers of the supplement of Hoang, Rana, Gupta, Venkatesh, "Learn to Unlearn for Deep Neural
Networks" (WACV 2024).

They stand beside what is measured and are never put in its place.
"""

from __future__ import annotations

# Table 1: γ → classification errors in % on D_f, D_r and test data; None is Retrain.
TABLE_1: dict[float | None, tuple[float, float, float]] = {
    None: (9.61, 0.00, 9.62),
    0.995: (1.10, 0.00, 9.90),
    0.99: (4.28, 0.00, 9.88),
    0.98: (10.04, 0.00, 9.86),
    0.96: (10.06, 0.00, 9.84),
    0.90: (10.06, 0.00, 9.84),
    0.85: (10.04, 0.00, 9.88),
    0.80: (13.80, 1.74, 13.78),
    0.75: (19.30, 8.15, 19.14),
}

# Tables 2 and 3: layers or blocks updated → attack AUC of PGU and of EU-k; 0 is no unlearning.
TABLE_2: dict[int, tuple[float, float]] = {
    0: (0.6590, 0.6590),
    1: (0.6554, 0.6587),
    2: (0.5086, 0.5587),
    3: (0.5087, 0.5379),
    4: (0.5067, 0.5168),
    5: (0.5070, 0.5040),
}
TABLE_3: dict[int, tuple[float, float]] = {
    0: (0.7053, 0.7053),
    1: (0.7035, 0.5350),
    2: (0.6063, 0.5349),
    3: (0.5409, 0.5243),
    4: (0.5395, 0.5198),
    5: (0.5393, 0.5045),
    6: (0.5392, 0.5045),
}

# Table 4: share of the training data that is poisoned → test accuracy in %. It is that of the
# poisoned model, of one trained on the clean part alone, and of the poisoned one after PGU. The
# model trained on all data, clean, reaches 48.18.
TABLE_4: dict[float, tuple[float, float, float]] = {
    0.1: (44.06, 46.40, 45.38),
    0.2: (39.76, 45.30, 44.34),
    0.3: (34.42, 43.90, 43.60),
    0.4: (28.70, 42.34, 42.50),
    0.5: (22.40, 39.48, 41.14),
}
TABLE_4_CLEAN = 48.18

# Figures 5 and 6: where unlearning fails, in samples of each class and as a share of the training
# data.
FAILING_POINT = {"all_cnn": (400, 0.08), "small_vgg": (1100, 0.22)}
