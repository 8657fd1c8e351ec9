# The page of the whole atlas: what a reader opens first.


rule page:
    """Every number, the heatmaps with links to the cards, the figures, and how it was made; the cards as pages beside it."""
    input:
        base_model=needs(PROVENANCE),
        corpus=needs(CORPUS),
        metrics=needs("results/metrics.parquet"),
        cards=needs(CARDS),
        releases=needs(expand("models/releases/{release}/README.md", release=RELEASES)),
        figures=needs(PICTURES),
    output:
        page=update("results/index.html"),
        card_pages=report(
            update(directory("results/cards")),
            patterns=["{sae}.html"],
            caption="../report/model_card.rst",
            category="1 What was trained",
            labels={"SAE": "{sae}"},
        ),
    log:
        "results/logs/page.log",
    localrule: True
    conda:
        "../../envs/atlas.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        **job("page", jobs=jobs(atlas)),
    message:
        "page: {output.page}"
    script:
        "../scripts/run.py"
