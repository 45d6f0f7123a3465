# docker build -t jengo .
# mkdir -p workspace    # yours, before the daemon makes it root's
# docker run --rm --shm-size 2g -v "$PWD/workspace:/workspace" jengo ReportImage --image-id grid_042 --local-scheduler
FROM python:3.11-slim

# GDAL inside rasterio's wheel needs expat, which slim images lack.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/jengo
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
COPY jengo jengo
COPY pipeline pipeline
COPY models models
COPY sql sql
RUN pip install --no-cache-dir -c constraints.txt .

# Threads that wait asleep: beside other work, waiting awake makes learning ten times slower.
ENV OMP_WAIT_POLICY=PASSIVE

# Whoever owns the mounted workspace: docker build --build-arg UID=$(id -u) .
ARG UID=1000
RUN useradd --uid "$UID" --create-home jengo && install -d -o jengo /workspace
USER jengo
WORKDIR /workspace
ENTRYPOINT ["luigi", "--module", "pipeline"]
CMD ["--help"]
