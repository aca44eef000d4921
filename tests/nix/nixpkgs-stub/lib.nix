# The part of nixpkgs' library that this project uses, by the same names and with the same meaning.
let
  inherit (builtins)
    concatMap
    isList
    listToAttrs
    map
    pathExists
    replaceStrings
    ;
  lib = {
    genAttrs =
      names: f:
      listToAttrs (
        map (name: {
          inherit name;
          value = f name;
        }) names
      );
    toList = x: if isList x then x else [ x ];
    optional = condition: x: if condition then [ x ] else [ ];
    optionalAttrs = condition: set: if condition then set else { };
    inherit (builtins) concatStringsSep;
    makeBinPath = packages: builtins.concatStringsSep ":" (map (p: "${p}/bin") packages);
    escapeShellArg = arg: "'${replaceStrings [ "'" ] [ "'\\''" ] (toString arg)}'";
    importTOML = file: builtins.fromTOML (builtins.readFile file);
    getExe = package: "${package}/bin/${package.meta.mainProgram}";
    trivial.release = "00.00";
    hasSuffix =
      suffix: text:
      let
        from = builtins.stringLength text - builtins.stringLength suffix;
      in
      from >= 0 && builtins.substring from (-1) text == suffix;
    licenses.mit.spdxId = "MIT";

    # File sets are lists of paths; what is named has to exist, as it has to in the real one.
    fileset = {
      unions =
        paths:
        map (path: if pathExists path then path else throw "file set: ${toString path} does not exist") (
          concatMap lib.toList paths
        );
      maybeMissing = path: lib.optional (pathExists path) path;
      toSource =
        { root, fileset }:
        builtins.deepSeq fileset root;
    };

    mkOption = option: option // { _type = "option"; };
    mkOverride = priority: content: {
      _type = "override";
      inherit priority content;
    };
    mkForce = lib.mkOverride 50;
    mkDefault = lib.mkOverride 1000;

    # A type is what it is called, what it takes, and how several definitions become one.
    types =
      let
        one =
          name: check: {
            inherit name check;
            merge =
              path: values:
              if builtins.length values == 1 then
                builtins.head values
              else
                throw "the option `${path}' has conflicting definitions";
          };
      in
      {
        str = one "string" builtins.isString;
        bool = one "boolean" builtins.isBool;
        int = one "integer" builtins.isInt;
        ints.positive = one "positive integer" (x: builtins.isInt x && x > 0);
        anything = one "anything" (_: true);
        list = {
          name = "list";
          check = isList;
          merge = _: concatMap (x: x);
        };
        attrs = {
          name = "attribute set";
          check = builtins.isAttrs;
          merge = _: builtins.foldl' (a: b: a // b) { };
        };
        # Attribute sets of attribute sets that may only have the named keys.
        attrsWithKeys = keys: {
          name = "attribute set of {${toString keys}}";
          check =
            x:
            builtins.isAttrs x
            && builtins.all (
              value: builtins.all (key: builtins.elem key keys) (builtins.attrNames value)
            ) (builtins.attrValues x);
          merge = _: builtins.foldl' (a: b: a // b) { };
        };
      };
  };
in
lib
