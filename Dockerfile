# CPU: docker build --tag sdst .
# CUDA: docker build --tag sdst:cuda --build-arg TORCH_BACKEND=cu130 .
# Run: docker run --rm --volume "$PWD:/work" sdst predict --help
FROM python:3.11-slim-bookworm AS build
ARG TORCH_BACKEND=cpu
RUN pip install --no-cache-dir uv
COPY . /source
RUN TORCH_BACKEND=$TORCH_BACKEND /source/tools/install_image.sh /opt/sdst

FROM python:3.11-slim-bookworm
COPY --from=build /opt/sdst /opt/sdst
ENV PATH=/opt/sdst/bin:$PATH
RUN useradd --create-home sdst
USER sdst
WORKDIR /work
ENTRYPOINT ["sdst"]
CMD ["--help"]
