"""`van models`: the variants, their size, published weights and quoted accuracy."""

# Top-1 (%) on ImageNet-1K at 224 x 224 as the paper reports it: T7 (B0-B4), T8 (pre-trained on ImageNet-22K)
QUOTED_TOP1 = {"van_b0": 75.4, "van_b1": 81.1, "van_b2": 82.8, "van_b3": 83.9, "van_b4": 84.2}
QUOTED_TOP1_22K = {"van_b4": 85.7, "van_b5": 86.3, "van_b6": 86.9}


def models(*, json: bool = False) -> None:
    """List the variants with parameters, multiply-accumulates at 224 x 224, published weights and quoted accuracy.

    Args:
        json: Print a list of objects instead of a table.
    """
    from json import dumps

    import timm

    from van.analysis.counting import complexity
    from van.models import create_model
    from van.models.variants import VARIANTS

    rows = []
    for name in VARIANTS:
        counts = complexity(create_model(name, device="meta"), (3, 224, 224))
        rows.append(
            {
                "model": name,
                "params": counts.params,
                "macs": counts.macs,
                "weights": timm.list_pretrained(f"{name}.*"),
                "quoted_top1_in1k": QUOTED_TOP1.get(name),
                "quoted_top1_in22k_in1k": QUOTED_TOP1_22K.get(name),
            }
        )
    if json:
        print(dumps(rows, indent=2))
        return
    print(f"{'model':<8}{'params':>9}{'MACs':>10}{'top-1*':>9}{'top-1**':>9}   published weights")
    for row in rows:
        accuracies = (row["quoted_top1_in1k"], row["quoted_top1_in22k_in1k"])
        quoted = "".join(f"{value:>9}" if value else f"{'-':>9}" for value in accuracies)
        weights = ", ".join(row["weights"])
        print(f"{row['model']:<8}{row['params'] / 1e6:>7.2f} M{row['macs'] / 1e9:>8.2f} G{quoted}   {weights}")
    print("\n* ImageNet-1K, 224 x 224, quoted from the paper (T7); ** pre-trained on ImageNet-22K, quoted (T8).")
    print("Parameters and multiply-accumulates are counted here. mmseg: backbone without classifier.")
