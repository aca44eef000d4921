//! What a configuration says about the machine, without building it: disks, files with keys, binary caches.

use engine::step::Context;
use landfall_proto::{failure::Failure, order::NixSettings};
use serde::Deserialize;

use super::Nix;
use crate::request::Flake;

/// Looks through disko's devices. Names with `_` are disko's own and lead in circles; what cannot be evaluated is passed
/// over. Which of its files disko reads for a LUKS device is decided in its `lib/types/luks.nix`.
const DEVICES: &str = r#"devices:
  let
    inherit (builtins) attrNames attrValues concatMap filter isAttrs isList isString mapAttrs match substring tryEval;
    attrs = x: if isAttrs x then x else { };
    text = x: if isString x then x else "";
    number = x: if builtins.isInt x then x else null;
    luks = x:
      let
        settings = attrs (x.settings or { });
        use = kind: file: {
          inherit kind;
          file = text file;
          device = text (x.name or "");
          offset = number (settings.keyFileOffset or null);
          size = number (settings.keyFileSize or null);
        };
        main =
          if settings ? keyFile then [ (use "key" settings.keyFile) ]
          else if x.askPassword or false then [ ]
          else if isString (x.passwordFile or null) then [ (use "password" x.passwordFile) ]
          else [ (use "key" (x.keyFile or "")) ];
      in
      main ++ map (file: (use "additional" file) // { offset = null; size = null; }) (x.additionalKeyFiles or [ ]);
    zfs = x: options:
      let file = match "file://(.*)" (text (options.keylocation or "")); in
      if file == null then [ ] else [ {
        kind = if options.keyformat or "" == "raw" then "raw" else "password";
        file = builtins.head file;
        device = text (x.name or "");
        offset = null;
        size = null;
      } ];
    own = x:
      (if x.type or "" == "luks" then luks x
      else if isString (x.passwordFile or null) then [ { kind = "password"; file = x.passwordFile; device = text (x.name or ""); offset = null; size = null; } ]
      else [ ])
      ++ zfs x (attrs (x.options or { })) ++ zfs x (attrs (x.rootFsOptions or { }));
    walk = depth: x:
      if depth == 0 then [ ]
      else if isList x then concatMap (walk (depth - 1)) x
      else if isAttrs x && !(x ? outPath) then
        own x ++ concatMap (name: let v = tryEval x.${name}; in if v.success then walk (depth - 1) v.value else [ ])
          (filter (name: substring 0 1 name != "_") (attrNames x))
      else [ ];
  in {
    disks = attrValues (mapAttrs (name: disk: disk.device) (devices.disk or { }));
    keys = filter (use: use.file != "") (walk 40 devices);
  }"#;

/// Where NixOS says from which binary caches it may fetch; lists, or strings with blanks between the words.
const CACHES: &str = r#"settings:
  let
    words = x:
      if builtins.isList x then map toString x
      else if builtins.isString x then builtins.filter builtins.isString (builtins.split "[[:space:]]+" x)
      else [ ];
    all = name: words (settings.${name} or [ ]) ++ words (settings."extra-${name}" or [ ]);
  in {
    substituters = all "substituters";
    public_keys = all "trusted-public-keys";
  }"#;

/// What disko's devices say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Devices {
    /// The disks, as the configuration names them.
    pub disks: Vec<String>,
    /// Files that disko's script reads keys from.
    pub keys: Vec<KeyUse>,
}

/// A file that disko's script reads a key from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct KeyUse {
    /// How it is read.
    pub kind: KeyKind,
    /// Its path on the installer.
    pub file: String,
    /// Name of the encrypted device, empty where it has none.
    pub device: String,
    /// Bytes that are passed over.
    pub offset: Option<u64>,
    /// Bytes that are read; none for all.
    pub size: Option<u64>,
}

/// How a file with a key is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// As a line of text: a newline at its end is no part of it.
    Password,
    /// Byte by byte.
    Key,
    /// Byte by byte, as one more key for a device that has one.
    Additional,
    /// Byte by byte, and it must be 32 bytes long.
    Raw,
}

impl Nix {
    /// Evaluates which disks and files with keys disko's devices name.
    pub async fn devices(&self, flake: &Flake, cx: &Context) -> Result<Devices, Failure> {
        let value = self
            .eval_json(flake, "disko.devices", Some(DEVICES), cx)
            .await?;
        serde_json::from_value(value).map_err(|error| {
            Failure::new("cannot read disko.devices")
                .because("parsing the disks' devices")
                .caused_by(&error)
                .hint("correct `disko.devices` in the configuration")
                .code("LF0353")
        })
    }

    /// Evaluates from which binary caches the configuration's own nix fetches.
    pub async fn caches(&self, flake: &Flake, cx: &Context) -> Result<NixSettings, Failure> {
        let value = self
            .eval_json(flake, "nix.settings", Some(CACHES), cx)
            .await?;
        let words = |name: &str| {
            let all = value[name].as_array().into_iter().flatten();
            let words = all.filter_map(|word| word.as_str().map(str::to_owned));
            let mut kept: Vec<String> = Vec::new();
            for word in words.filter(|word| is_word(word)) {
                if !kept.contains(&word) {
                    kept.push(word);
                }
            }
            kept
        };
        Ok(NixSettings {
            substituters: words("substituters"),
            public_keys: words("public_keys"),
        })
    }
}

/// Whether it can stand in a line of nix.conf.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}
