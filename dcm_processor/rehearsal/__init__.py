"""Services without the platform: no Redis, no Orthanc, no Docker, no root, and none of the server's packages.

For those who write services: `service validate`, `service test`, `run`. What decides is what decides on the platform
(manifest, registry, headers, plan, advance), what calls foreign code is started as a program (`python -m scheduler.…`,
`python -m worker.…`), since nothing here may import those packages.

Reading order: sources, functions, graph; then studies, children, bench, whole.
"""
