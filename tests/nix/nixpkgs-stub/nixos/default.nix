# A module system that fits on a page: imports, options, priorities, and an error for a name or a
# type that is not declared.
{
  lib,
  pkgs,
  modules,
}:
let
  modulesPath = ./modules;

  load =
    module:
    let
      value = if builtins.isPath module then import module else module;
      called =
        if builtins.isFunction value then
          value {
            inherit
              lib
              pkgs
              config
              modulesPath
              settings
              ;
          }
        else
          value;
    in
    builtins.concatMap load (called.imports or [ ])
    ++ [
      {
        options = called.options or { };
        config =
          called.config or (removeAttrs called [
            "imports"
            "options"
          ]);
      }
    ];

  isOption = x: x._type or null == "option";
  merged = a: b: a // builtins.mapAttrs (n: v: if a ? ${n} && !isOption v then merged a.${n} v else v) b;

  loaded = load ./options.nix ++ builtins.concatMap load modules;
  options = builtins.foldl' merged { } (map (m: m.options) loaded);

  # The value of one option out of all that was defined for it.
  decide =
    path: option: definitions:
    let
      priority = d: if d._type or null == "override" then d.priority else 100;
      content = d: if d._type or null == "override" then d.content else d;
      lowest = builtins.foldl' (low: d: if priority d < low then priority d else low) 9999 definitions;
      values = map content (builtins.filter (d: priority d == lowest) definitions);
      wrong = builtins.filter (v: !option.type.check v) values;
    in
    if definitions == [ ] then
      option.default or (throw "the option `${path}' was accessed but has no value")
    else if wrong != [ ] then
      throw "a definition for option `${path}' is not of type `${option.type.name}'"
    else
      option.type.merge path values;

  evaluate =
    path: declared: definitions:
    if isOption declared then
      decide path declared definitions
    else
      let
        below = name: if path == "" then name else "${path}.${name}";
        unknown = builtins.filter (name: !(declared ? ${name})) (
          builtins.concatMap builtins.attrNames definitions
        );
      in
      if unknown != [ ] then
        throw "the option `${below (builtins.head unknown)}' does not exist"
      else
        builtins.mapAttrs (
          name: sub:
          evaluate (below name) sub (
            builtins.concatMap (d: lib.optional (d ? ${name}) d.${name}) definitions
          )
        ) declared;

  definitions = map (m: m.config) loaded;
  config = evaluate "" options definitions;

  # How many options are set. Counting looks at each of them, also where nothing here reads it.
  count =
    declared: definitions: value:
    if isOption declared then
      if definitions == [ ] then 0 else builtins.seq value 1
    else
      builtins.foldl' (
        sum: name:
        sum
        + count declared.${name} (builtins.concatMap (
          d: lib.optional (d ? ${name}) d.${name}
        ) definitions) value.${name}
      ) 0 (builtins.attrNames declared);
  settings = count options definitions config;
in
config.system.build // { inherit config options; }
