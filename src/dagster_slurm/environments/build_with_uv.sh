# shellcheck shell=bash
# build_with_uv WHERE [OPTION ...]: makes `env` from the project that is WHERE in "$parts/project.tar.gz", with the login
# node's own uv and network.
# shellcheck disable=SC2154 # parts and python are the installing script's
build_with_uv() {
    command -v uv >/dev/null || {
        echo 'uv is not on the PATH of the login node' >&2
        return 1
    }
    local where=$1
    shift
    mkdir .project
    tar -xzf "$parts/project.tar.gz" -C .project
    uv venv --quiet --relocatable --no-project --python "$python" env
    UV_PROJECT_ENVIRONMENT=$PWD/env uv sync --quiet --frozen --no-editable --no-default-groups \
        --link-mode copy --project ".project/$where" "$@"
    rm -rf .project
}
