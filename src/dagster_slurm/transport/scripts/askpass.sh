#!/bin/sh
# What ssh runs to have a prompt answered: passes it on through two named pipes that lie beside this file. The byte
# 4 ends a prompt; an answer begins with `+`, and with `-` there is none.
directory=${0%/*}
printf '%s\004' "$1" >"$directory/prompt"
IFS= read -r answer <"$directory/answer"
case $answer in
+*) printf '%s\n' "${answer#+}" ;;
*) exit 1 ;;
esac
