# agent-aarch64.sh: the agent for the other architecture, which no machine of the rig takes.
# in: OUT, WORK, REPOSITORY, CROSS, BUILD
# out: OUT/landfall-agent-aarch64-linux-musl
set -eu
. "$RECIPES/agent.sh"

build_agent aarch64
