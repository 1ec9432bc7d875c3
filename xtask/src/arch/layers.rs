//! Who may import whom. Each module names the others that it may name; what is not listed points the wrong way.

use super::source::Source;

/// A module of a package and the modules beside it that it may name.
type Layer = (&'static str, &'static [&'static str]);

const MESH_LEAVES: [&str; 6] = ["packet", "event", "status", "error", "metrics", "random"];

const CONTROL_CLIENT: &[Layer] = &[
    ("keys", &[]),
    ("noise", &["keys", "error"]),
    ("wire", &["keys", "error"]),
    ("map_stream", &["keys", "wire", "error"]),
    ("netmap", &["keys", "wire", "error"]),
    ("registration", &["keys", "wire", "error", "config", "noise"]),
    ("config", &["keys", "wire", "error", "netmap", "dial"]),
    ("dial", &["keys", "wire", "error"]),
    ("store", &["keys", "error", "config", "netmap", "wire"]),
    ("event", &["keys", "error", "netmap"]),
];

/// Packages that one may name, with the modules of them that it may name; `*` stands for all.
const PACKAGES: &[(&str, &[Layer])] = &[
    ("aead", &[]),
    ("control-client", &[]),
    ("mesh", &[("sandd_aead", &["*"]), ("sandd_control_client", &["*"])]),
    (
        "coordinator",
        &[
            ("sandd_mesh", &["derp", "stun"]),
            ("sandd_control_client", &["keys", "noise", "wire", "map_stream"]),
        ],
    ),
    (
        "sandd",
        &[
            ("sandd_coordinator", &["*"]),
            ("sandd_mesh", &["*"]),
            ("sandd_control_client", &["*"]),
        ],
    ),
];

const ALL_PACKAGES: [&str; 5] = [
    "sandd_aead",
    "sandd_control_client",
    "sandd_mesh",
    "sandd_coordinator",
    "sandd",
];

/// Codecs and machines of the mesh: the leaves and, beside them, what is named here.
const MESH_MACHINES: &[Layer] = &[
    ("packet", &[]),
    ("event", &[]),
    ("status", &[]),
    ("error", &[]),
    ("metrics", &[]),
    ("stun", &[]),
    ("disco", &[]),
    ("derp", &[]),
    ("wg", &[]),
    ("path", &["disco"]),
    ("peer_relay", &["disco"]),
    ("netcheck", &["stun"]),
    ("route", &[]),
    ("filter", &[]),
    ("magic_dns", &[]),
    ("netstack", &[]),
    ("portmap", &[]),
];

/// What stands above the whole of the mesh and may be named by nothing below.
const MESH_HANDLE: [&str; 3] = ["net", "mesh", "builder"];

/// The pure files of controller and daemon: they stand below the transport, between files that are shells.
pub(crate) const PURE_IN_SANDD: [&str; 8] = [
    "controller::registry",
    "controller::pending",
    "controller::identity",
    "controller::limits",
    "daemon::reconnect",
    "daemon::policy",
    "daemon::jobs",
    "wire::link",
];

/// Judges every path that `source`, module `module` of `package`, names.
pub(crate) fn judge(package: &str, module: &[String], name: &str, source: &Source) -> Vec<String> {
    let mut offences = other_packages(package, name, source);
    let Some(own) = module.first() else { return offences };
    for named in source.paths_from("crate") {
        let Some(target) = named.segments.get(1) else { continue };
        let is_module = target.starts_with(|first: char| first.is_lowercase());
        // An error gathers its sources from wherever they come.
        if !is_module || target == own || own == "error" {
            continue;
        }
        if !may_name(package, own, target) {
            offences.push(format!("{name}:{}: `{own}` may not name `{target}`", named.line));
        }
    }
    if package == "sandd" {
        offences.extend(sides_of_sandd(module, name, source));
    }
    offences
}

fn other_packages(package: &str, name: &str, source: &Source) -> Vec<String> {
    let allowed = PACKAGES
        .iter()
        .find(|(own, _)| *own == package)
        .map_or(&[][..], |(_, allowed)| allowed);
    let own = if package == "sandd" {
        "sandd".to_owned()
    } else {
        format!("sandd_{}", package.replace('-', "_"))
    };
    let mut offences = Vec::new();
    for other in ALL_PACKAGES.iter().filter(|other| **other != own) {
        for named in source.paths_from(other) {
            let target = named.segments.get(1).map_or("", String::as_str);
            let modules = allowed
                .iter()
                .find(|(named, _)| named == other)
                .map(|(_, modules)| *modules);
            if !modules.is_some_and(|modules| modules.contains(&"*") || modules.contains(&target)) {
                offences.push(format!(
                    "{name}:{}: {package} may not name `{other}::{target}`",
                    named.line
                ));
            }
        }
    }
    offences
}

fn may_name(package: &str, own: &str, target: &str) -> bool {
    let listed = |layers: &[Layer]| {
        layers
            .iter()
            .find(|(layer, _)| *layer == own)
            .map(|(_, allowed)| *allowed)
    };
    match package {
        "control-client" => listed(CONTROL_CLIENT).is_none_or(|allowed| allowed.contains(&target)),
        "mesh" => {
            if MESH_LEAVES.contains(&target) {
                return true;
            }
            if MESH_HANDLE.contains(&own) || own == "sim" {
                return true;
            }
            if own == "io" {
                return !MESH_HANDLE.contains(&target);
            }
            if own == "engine" {
                return MESH_MACHINES.iter().any(|(machine, _)| *machine == target);
            }
            listed(MESH_MACHINES).is_some_and(|allowed| allowed.contains(&target))
        }
        "coordinator" => coordinator_may_name(own, target),
        "sandd" => sandd_may_name(own, target),
        _ => true,
    }
}

fn coordinator_may_name(own: &str, target: &str) -> bool {
    match own {
        "membership" | "policy" => matches!(target, "error" | "policy" | "membership"),
        "map" => matches!(target, "error" | "membership" | "policy"),
        "hooks" => matches!(target, "error" | "membership"),
        "io" => target != "coordinator",
        _ => true,
    }
}

fn sandd_may_name(own: &str, target: &str) -> bool {
    match own {
        "wire" | "error" | "escape" => matches!(target, "error" | "wire" | "escape"),
        "transport" => matches!(target, "wire" | "error" | "escape"),
        "controller" => matches!(target, "wire" | "transport" | "error" | "escape"),
        "daemon" => matches!(target, "wire" | "transport" | "error" | "escape"),
        "local" => !matches!(target, "cli" | "main"),
        _ => true,
    }
}

/// The pure files of controller and daemon stand below the transport.
fn sides_of_sandd(module: &[String], name: &str, source: &Source) -> Vec<String> {
    let path = module.join("::");
    if !PURE_IN_SANDD.contains(&path.as_str()) {
        return Vec::new();
    }
    source
        .paths_from("crate")
        .into_iter()
        .filter(|named| named.segments.get(1).is_some_and(|target| target == "transport"))
        .map(|named| format!("{name}:{}: `{path}` is pure and stands below the transport", named.line))
        .collect()
}
