"""The variants of VAN."""

from van.analysis.tables import Report


def models() -> Report:
    """List the variants of VAN with their size, published weights and the accuracy that the paper reports.

    Returns:
        For each variant: model, params, macs (at 224 x 224), weights, quoted_top1_in1k and quoted_top1_in22k_in1k (%).
    """
    import timm

    from van.analysis.counting import complexity
    from van.analysis.quoted import TOP1, TOP1_22K
    from van.analysis.tables import markdown, number
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
                "quoted_top1_in1k": TOP1.get(name),
                "quoted_top1_in22k_in1k": TOP1_22K.get(name),
            }
        )
    table = [
        {
            "model": row["model"],
            "params M": f"{row['params'] / 1e6:.2f}",
            "GMACs": f"{row['macs'] / 1e9:.2f}",
            "top-1 %": number(row["quoted_top1_in1k"], ".1f"),
            "top-1 % after 22K": number(row["quoted_top1_in22k_in1k"], ".1f"),
            "published weights": ", ".join(row["weights"]),
        }
        for row in rows
    ]
    notes = (
        "Top-1 is the accuracy on ImageNet-1K at 224 x 224 that the paper reports: trained on ImageNet-1K alone (T7),\n"
        "and pre-trained on ImageNet-22K (T8). Parameters and multiply-accumulates are counted here. Weights with\n"
        "mmseg in their name are backbones without a classifier."
    )
    return Report(f"{markdown(table)}\n\n{notes}", rows)
