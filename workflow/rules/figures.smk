# Figures: PNG to look at, SVG to print. A rule for each line of the table in sae_atlas/stages/figures.py.
from sae_atlas.stages.figures import FIGURES, OF_LAYERS

# Parameter of a figure's function -> the files that it reads.
READ = {
    "curves": of_all_layers("results/curves/{recipe}/layer{layer:02d}_{snapshot}.parquet", atlas.chain),
    "metrics": "results/metrics/{recipe}.parquet",
    "latents": of_all_layers(LATENTS),
    "sisters": "results/metrics.parquet",
    "flow": "results/metrics/{recipe}/flow.parquet",
    "seeds": "results/metrics/{recipe}/seeds.parquet",
    "replaced": "results/metrics/{recipe}/replaced_layers.parquet",
    "floors": "results/floors/{recipe}/floors.parquet",
    "students": STUDENTS,
    "fit": "results/floors/{recipe}/fit.parquet" if STUDENTS else [],
}


for name, figure in FIGURES.items():

    rule:
        name:
            f"plot_{name}"
        input:
            **{table: needs(READ[table]) for table in figure.tables},
        output:
            png=report(
                update(f"results/figures/{{recipe}}/{figure.number}_{name}.png"),
                caption=f"../report/{name}.rst",
                category=figure.category,
                labels={"recipe": "{recipe}", "figure": figure.label},
            ),
            svg=update(f"results/figures/{{recipe}}/{figure.number}_{name}.svg"),
        log:
            f"results/logs/plot_{name}/{{recipe}}.log",
        conda:
            "../../envs/atlas.yaml"
        resources:
            mem_mb=growing(2000),
            runtime=growing(10),
        params:
            **job(f"plot_{name}", **({"layers": atlas.layers} if {*figure.tables} & {*OF_LAYERS} else {})),
        message:
            f"figure: {figure.label} of {{wildcards.recipe}}"
        script:
            "../scripts/run.py"
