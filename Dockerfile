# The gateway's image. Two stages from one base: the first installs, the second has the virtual environment and nothing else.
#
#   docker build --tag tidegate .            (or `make image`, which fills in the labels)
#
# Any base will do that has Debian's apt, Python 3.11 or newer with venv, and CA certificates; pin a digest where that matters.
ARG BASE_IMAGE=python:3.11-slim-bookworm


FROM ${BASE_IMAGE} AS build

# Only `strip` is used of it, and nothing of it goes into the image: the version that the base's Debian has is the right one.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends binutils \
 && rm -rf /var/lib/apt/lists/*

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /build

# What runs gets no pip: the one here installs for it. Every file is checked against its hash; nothing is compiled.
COPY requirements.txt requirements-build.txt ./
RUN python3 -m venv tools \
 && tools/bin/pip install --only-binary :all: --require-hashes --requirement requirements-build.txt \
 && python3 -m venv --without-pip /opt/tidegate \
 && tools/bin/pip --python /opt/tidegate/bin/python install --no-compile --only-binary :all: --require-hashes \
      --requirement requirements.txt

# Debugging symbols are half of what wheels weigh; zstandard's cffi backend is for PyPy, headers and stubs are for compilers.
RUN find /opt/tidegate/lib -name '*.so*' -exec strip --strip-unneeded {} + \
 && find /opt/tidegate/lib '(' -path '*/zstandard/_cffi.*' -o -name '*.[ch]' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' ')' -delete

COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY middleware middleware
RUN tools/bin/pip wheel --no-build-isolation --no-deps --no-index --wheel-dir wheels . \
 && tools/bin/pip --python /opt/tidegate/bin/python install --no-compile --no-deps --no-index wheels/*.whl

# A slim base has no bytecode of the standard library, and at run time nobody may write any: without it every start would
# compile hundreds of modules. So the bytecode of all that a gateway imports, and of no more, is kept in one place.
RUN /opt/tidegate/bin/python -I -X pycache_prefix=/opt/tidegate/bytecode -c 'import importlib, pkgutil; \
import concurrent.futures.thread, encodings.idna, importlib.resources.readers, uvicorn.lifespan.off, uvicorn.loops.auto, uvicorn.loops.uvloop; \
[importlib.import_module(module.name) for package in map(importlib.import_module, ("gateway", "middleware")) \
for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]'


FROM ${BASE_IMAGE}

COPY --from=build /opt/tidegate /opt/tidegate

# Who reaches the listeners is for the container's network to say; who may connect is still asked (TIDEGATE_AUTH__MODE).
ENV PATH=/opt/tidegate/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/tidegate/bytecode \
    PYTHONUNBUFFERED=1 \
    TIDEGATE_HOST=0.0.0.0 \
    TIDEGATE_OPS_HOST=0.0.0.0 \
    TIDEGATE_OPS_PORT=9000

# A number, so that an orchestrator can see that it is not root.
USER 10001:10001

EXPOSE 8000 9000

HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["tidegate", "healthcheck"]

ENTRYPOINT ["tidegate"]
CMD ["serve"]

# Last: a new version or commit builds no other layer anew.
ARG BASE_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tidegate" \
      org.opencontainers.image.description="An observability-first WebSocket gateway" \
      org.opencontainers.image.vendor="The Tidegate developers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
