# dlm serve in a container.
#
#   docker build -t dlm .                                                             # CPU
#   docker build -t dlm --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .     # CUDA: run with --gpus all
#   docker run -p 8000:8000 -v dlm-models:/models dlm
#   docker run -p 8000:8000 -v dlm-models:/models -v $PWD/keys.txt:/keys.txt:ro dlm model=llada-8b-instruct api_keys=/keys.txt
#
# /models keeps what is downloaded from the hub. scripts/container_steps.sh does the RUN steps without docker.
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 HF_HOME=/models
WORKDIR /dlm
# torch first and alone, from an index of its own: nothing later replaces it.
COPY constraints.txt ./
RUN pip install -c constraints.txt --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple torch
COPY . .
RUN pip install -c constraints.txt '.[serve,constraints]'
RUN useradd --create-home dlm && mkdir -p /models && chown dlm /models
USER dlm
WORKDIR /home/dlm
VOLUME /models
EXPOSE 8000
HEALTHCHECK --start-period=120s --interval=30s --timeout=5s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["dlm", "serve", "host=0.0.0.0", "port=8000"]
