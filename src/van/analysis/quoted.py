"""Numbers that the paper reports. They are quoted, not measured here."""

# T7: top-1 accuracy (%) on ImageNet-1K at 224 x 224
TOP1 = {"van_b0": 75.4, "van_b1": 81.1, "van_b2": 82.8, "van_b3": 83.9, "van_b4": 84.2}
TOP1_OTHERS = {"convnext_tiny": 82.1, "swin_tiny_patch4_window7_224": 81.3, "resnet50": 76.5}
# T8: the same, pre-trained on ImageNet-22K
TOP1_22K = {"van_b4": 85.7, "van_b5": 86.3, "van_b6": 86.9}
# T2: parameters of a 21 x 21 convolution on C channels: standard, as in MobileNet, and decomposed
PARAMETERS = {
    32: (451_584, 15_136, 3_392),
    64: (1_806_336, 32_320, 8_832),
    128: (7_225_344, 72_832, 25_856),
    256: (28_901_376, 178_432, 84_480),
    512: (115_605_504, 487_936, 300_032),
}
# T5: parameters (M) and multiply-accumulates (G) at 224 x 224 as printed; for B6, T8 prints 38.9 G
SIZES = {
    "van_b0": ("4.1", "0.9"),
    "van_b1": ("13.9", "2.5"),
    "van_b2": ("26.6", "5.0"),
    "van_b3": ("44.8", "9.0"),
    "van_b4": ("60.3", "12.2"),
    "van_b5": ("90.0", "17.2"),
    "van_b6": ("200", "38.4"),
}
