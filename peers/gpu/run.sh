#!/bin/sh
# Install what is missing without a network, then run `python -m peers gpu` with the given options:
#
#     ./run.sh --minutes 8                     # results in results/; start again to continue
#     ./run.sh --device cpu --minutes 5        # a test without a GPU
#
# PYTHON=/some/python3 selects the interpreter whose torch is used.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
parent=${PYTHON:-python3}
python="$here/environment/bin/python"
export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1
unset PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_CONSTRAINT PIP_FIND_LINKS PIP_TARGET PIP_USER 2>/dev/null || true

if [ ! -f "$here/environment/complete" ]; then
    "$parent" -m venv --without-pip --system-site-packages "$here/environment"
    # If the interpreter belongs to a virtual environment itself, its packages are not those of the system.
    "$parent" -c 'import pathlib, sys
folders = [folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]
(target,) = pathlib.Path(sys.argv[1]).glob("lib/python*/site-packages")
(target / "parent.pth").write_text("\n".join(folders) + "\n")' "$here/environment"
    "$python" -c 'import pip' 2>/dev/null || "$python" -m ensurepip >/dev/null
    install() { "$python" -m pip install --quiet --no-index --no-deps --find-links "$here/wheels" "$@"; }
    if ! install -r "$here/requirements.txt" 2>/dev/null; then
        while read -r requirement; do
            install "$requirement" 2>/dev/null || echo "not available, continuing without it: $requirement"
        done < "$here/requirements.txt"
    fi
    touch "$here/environment/complete"
fi

cd "$here/project"
export PYTHONPATH="$here/project/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
[ ! -d "$here/data" ] || export SAIS_DATA="$here/data"
for plan in "$here"/screening.*; do
    [ ! -f "$plan" ] || set -- --screening "$plan" "$@"
done
exec "$python" -m peers gpu --out "$here/results" "$@"
