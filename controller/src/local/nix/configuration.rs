//! What a configuration says, without building it: what is to be built, disks, files with keys, binary caches.
//!
//! A NixOS configuration takes seconds to evaluate, whatever one wants of it, so [`Nix::survey`] asks for all at once.

use engine::step::Context;
use landfall_proto::{failure::Failure, order::NixSettings};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Nix,
    build::{DERIVATION, Derivation},
    installable, parsed,
};
use crate::request::Flake;

/// Where everything lies that is built.
const BUILD: &str = "system.build.";

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
    # what its script asks of whoever sits at the terminal
    asks = x:
      let
        # where a format is named, that is what ZFS does unless it is told otherwise
        prompts = options: options ? keyformat && options.keylocation or "prompt" == "prompt";
        of_pool = prompts (attrs (x.options or { })) || prompts (attrs (x.rootFsOptions or { }));
      in
      if x.type or "" == "luks" then x.askPassword or false
      else of_pool;
    own = x:
      (if x.type or "" == "luks" then luks x
      else if isString (x.passwordFile or null) then [ { kind = "password"; file = x.passwordFile; device = text (x.name or ""); offset = null; size = null; } ]
      else [ ])
      ++ zfs x (attrs (x.options or { })) ++ zfs x (attrs (x.rootFsOptions or { }));
    walk = own: depth: x:
      if depth == 0 then [ ]
      else if isList x then concatMap (walk own (depth - 1)) x
      else if isAttrs x && !(x ? outPath) then
        own x ++ concatMap (name: let v = tryEval x.${name}; in if v.success then walk own (depth - 1) v.value else [ ])
          (filter (name: substring 0 1 name != "_") (attrNames x))
      else [ ];
  in {
    disks = attrValues (mapAttrs (name: disk: disk.device or (throw "it has no device")) (devices.disk or { }));
    keys = filter (use: use.file != "") (walk own 40 devices);
    asked = walk (x: if asks x then [ (text (x.name or "")) ] else [ ]) 40 devices;
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

/// What is to be known of a configuration before it is built.
#[derive(Debug, Clone)]
pub struct Survey {
    /// What is to be built, in the order asked for.
    pub derivations: Vec<Derivation>,
    /// What disko's devices say; none where they do not say it.
    pub devices: Option<Devices>,
    /// From where the configuration's own nix fetches; none where it does not say.
    pub caches: Option<NixSettings>,
}

/// What disko's devices say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Devices {
    /// The disks, as the configuration names them.
    pub disks: Vec<String>,
    /// Files that disko's script reads keys from.
    pub keys: Vec<KeyUse>,
    /// Names of encrypted devices, data sets and pools whose passphrase the script asks for; empty where they have none.
    #[serde(default)]
    pub asked: Vec<String>,
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

    /// Evaluates all that is to be known before anything is built: some attributes below `system.build`, disko's devices,
    /// and from which binary caches the configuration's own nix fetches.
    pub async fn survey(
        &self,
        flake: &Flake,
        attributes: &[String],
        cx: &Context,
    ) -> Result<Survey, Failure> {
        let headline = format!("cannot evaluate {flake}");
        let first = attributes.first().map(String::as_str).unwrap_or_default();
        let apply = survey(attributes);
        let out = self.eval(&flake.to_string(), Some(&apply), Some(cx)).await;
        let out = match out {
            Ok(out) => out,
            Err(error) => return Err(self.explained(flake, first, headline, error).await),
        };
        let value = parsed(&out, headline.clone(), "eval")?;
        let mut derivations = Vec::new();
        for (at, attribute) in attributes.iter().enumerate() {
            let derivation = &value["derivations"][at];
            if derivation.is_null() {
                let names = self.names(flake).await.unwrap_or_default();
                return Err(installable::missing(flake, attribute, &names));
            }
            derivations.push(Derivation::read(derivation, &headline)?);
        }
        let devices = serde_json::from_value(value["devices"].clone());
        Ok(Survey {
            derivations,
            devices: devices.ok(),
            caches: caches(&value["caches"]),
        })
    }
}

/// Returns the function that takes the configuration and tells all.
fn survey(attributes: &[String]) -> String {
    let names = attributes.iter().map(|attribute| {
        let name = attribute.strip_prefix(BUILD).unwrap_or(attribute);
        format!("\"{name}\"")
    });
    let names: Vec<String> = names.collect();
    let names = names.join(" ");
    format!(
        r#"config:
  let
    derivation = {DERIVATION};
    devices = {DEVICES};
    caches = {CACHES};
    build = config.system.build or {{ }};
    whole = f: x:
      let tried = builtins.tryEval (let value = f x; in builtins.deepSeq value value);
      in if tried.success then tried.value else null;
  in {{
    derivations = map (name: if build ? ${{name}} then derivation build.${{name}} else null) [ {names} ];
    devices = if config ? disko.devices then whole devices config.disko.devices else null;
    caches = if config ? nix.settings then whole caches config.nix.settings else null;
  }}"#
    )
}

fn caches(value: &Value) -> Option<NixSettings> {
    let words = |name: &str| {
        let mut kept: Vec<String> = Vec::new();
        for word in value[name].as_array()?.iter().filter_map(Value::as_str) {
            if is_word(word) && !kept.iter().any(|other| other == word) {
                kept.push(word.to_owned());
            }
        }
        Some(kept)
    };
    Some(NixSettings {
        substituters: words("substituters")?,
        public_keys: words("public_keys")?,
    })
}

/// Whether it can stand in a line of nix.conf.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}
