# shellcheck shell=sh
# data_links.sh BASE: unpacks a tar stream of links in BASE: one process for thousands. What is there is left as it is.
cd -- "$1" && tar -x --skip-old-files -f -
