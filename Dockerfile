# SAE Atlas with everything it needs, exact pins from the lock files: docker build -t sae-atlas . ; then, with results kept outside,
#   docker run --rm -v "$PWD/run:/run" sae-atlas --directory /run --cores all
FROM python:3.11.14-slim-bookworm
# The CPU build by default; for a GPU give the index of pytorch.org that fits its driver, such as .../whl/cu128.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /atlas
COPY requirements.lock requirements-torch.lock requirements-embedded.lock ./
RUN pip install --no-cache-dir --no-deps -r requirements-torch.lock --index-url "$TORCH_INDEX" \
 && pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock \
 && pip install --no-cache-dir --no-deps --require-hashes -r requirements-embedded.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
ENTRYPOINT ["snakemake", "--snakefile", "/atlas/Snakefile"]
