# The service of a complete run, on a CPU: docs/guides/serving.md. `make docker-check RUN=RUN` tests it.
FROM python:3.12-slim

# Torch for CPUs alone is a tenth of the usual one.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive

WORKDIR /semrec
COPY constraints.txt docker/install.sh ./
COPY packages packages
COPY apps apps
RUN TORCH_INDEX=$TORCH_INDEX sh install.sh python . && rm -rf packages apps

RUN useradd --uid 10001 --no-create-home semrec
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=2)"]

# The run is mounted at /run-folder, and the token at /run/secrets/token, both for reading alone.
ENTRYPOINT ["prorec", "serve", "--run", "/run-folder", "--host", "0.0.0.0", "--token-file", "/run/secrets/token"]
