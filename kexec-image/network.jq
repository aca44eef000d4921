# What `ip --json` saw on the old system, as networkd units: { file name: text }.
#
#   jq -n --slurpfile addrs addrs.json --slurpfile v4 routes-v4.json --slurpfile v6 routes-v6.json -f network.jq
#
# An address belongs to the link that will carry it here. A bridge or a bond is not rebuilt: what it
# held goes to its first member that is up, so that one network card never gets two units. A VLAN is
# rebuilt on top. A link without a network card below it (containers, tunnels) is left out.

def kind: .linkinfo.info_kind // "";
def holds_members: kind | IN("bridge", "bond", "team");

[$addrs[0][] | select(.link_type == "ether")] as $links

# The name of the link that carries $name in the installer, or null.
| def carrier($name):
    ([$links[] | select(.ifname == $name)][0]) as $link
    | if $link == null then null
      elif ($link | kind) == "" then $name
      elif ($link | kind) == "vlan" then (if carrier($link.link // "") then $name else null end)
      elif ($link | holds_members) then
        [$links[] | select(.master == $name)]
        | sort_by([.operstate != "UP", .ifindex])
        | [.[] | carrier(.ifname) | values][0]
      else null
      end;

def is_static: (.dynamic | not) and .scope != "link" and .scope != "host";

def address:
    "\n[Address]\nAddress=\(.local)/\(.prefixlen)\n"
    + if .address then "Peer=\(.address)/\(.prefixlen)\n" else "" end;

def route($any):
    (.gateway // .via.host) as $gateway
    | "\n[Route]\nDestination=\(if .dst == "default" then $any else .dst end)\n"
    + (if $gateway then "Gateway=\($gateway)\n" else "Scope=\(.scope // "link")\n" end)
    + (if $gateway and (.flags | index("onlink")) then "GatewayOnLink=yes\n" else "" end)
    + (if .prefsrc then "PreferredSource=\(.prefsrc)\n" else "" end)
    + (if .metric then "Metric=\(.metric)\n" else "" end);

# Routes that somebody wrote down; the others come back by themselves.
def routes($from; $any; $names):
    [$from[0][]
     | select(.dev | IN($names[]))
     | select(.protocol // "boot" | IN("dhcp", "kernel", "ra", "redirect") | not)
     | select((.type // "unicast") == "unicast" and .nexthops == null)
     | route($any)] | add // "";

[$links[] | { link: ., carrier: carrier(.ifname) } | select(.carrier)] as $carried

| [$links[]
   | select(carrier(.ifname) == .ifname)
   | . as $link
   | [$carried[] | select(.carrier == $link.ifname) | .link] as $owners
   | [$owners[].ifname] as $names
   | [$owners[].addr_info[]] as $addresses
   | [$addresses[] | select(.dynamic and .family == "inet")
      | { key: .valid_life_time, value: .local }] as $leases
   | [$carried[].link | select(kind == "vlan" and (carrier(.link) == $link.ifname)) | .ifname] as $vlans
   | (kind == "vlan") as $vlan
   | ( (if $vlan then
          "[Match]\nName=\(.ifname)\nKind=vlan\n"
        else
          # a VLAN inherits the hardware address, so only links of no kind are meant
          "[Match]\nMACAddress=\(.permaddr // .address)\nKind=!*\n"
        end)
       + (if .mtu != 1500 then "\n[Link]\nMTUBytes=\(.mtu)\n" else "" end)
       + "\n[Network]\n"
       + "DHCP=\(if $vlan and ([$addresses[] | select(.dynamic)] | length == 0) then "no" else "yes" end)\n"
       + "IPv6AcceptRA=yes\n"
       + ([$vlans[] | "VLAN=\(.)\n"] | add // "")
       + (if ($leases | length) > 0
          then "\n[DHCPv4]\nRequestAddress=\($leases | max_by(.key) | .value)\n" else "" end)
       + ([$addresses[] | select(is_static) | address] | add // "")
       + routes($v4; "0.0.0.0/0"; $names)
       + routes($v6; "::/0"; $names)
     ) as $network
   | { "00-\(.ifname).network": $network }
     + (if $vlan then
          { "00-\(.ifname).netdev":
              "[NetDev]\nName=\(.ifname)\nKind=vlan\n\n[VLAN]\nId=\(.linkinfo.info_data.id)\n" }
        else {} end)
  ]
| add // {}
