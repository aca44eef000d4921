# agents.sh: the agent that the rig's machines take.
# in: OUT, WORK, REPOSITORY, CROSS, BUILD
# out: OUT/landfall-agent-x86_64-linux-musl
set -eu
. "$RECIPES/agent.sh"

build_agent x86_64
"$OUT/landfall-agent-x86_64-linux-musl" version
