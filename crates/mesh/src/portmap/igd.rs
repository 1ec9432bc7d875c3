//! [`Talk`]: the conversation with a UPnP Internet gateway device, HTTP requests out and answers in.
//!
//! ```text
//! description ──▶ services ──▶ several? status and address of each ──▶ AddPortMapping ──▶ GetExternalIPAddress
//! ```
//!
//! Devices have dialects (UPnP forum, WANIPConnection 1 and 2, section 2.5): some know permanent leases only, some answer
//! from several services of which one is connected, and some forget which actions their version has.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::xml::{self, Piece};
use super::{LEAST_PORT, LIFETIME, Place};

/// Services of one device that are looked at.
const MAX_SERVICES: usize = 8;
const MAX_PATH: usize = 512;
/// External ports tried when others hold them.
const MAX_PORTS: u32 = 4;
/// "Only permanent leases", said in two ways.
const ONLY_PERMANENT: [&str; 2] = ["725", "402"];
const CONFLICT: &str = "718";
const NO_SUCH_ACTION: [&str; 2] = ["401", "602"];

/// What of a URL counts: the host is always the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpPlace {
    pub(crate) port: u16,
    pub(crate) path: String,
}

impl HttpPlace {
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port = match host.rsplit_once(':') {
            Some((_, port)) => port.parse().ok().filter(|port| *port != 0)?,
            None => 80,
        };
        Self {
            port,
            path: String::new(),
        }
        .join(path)
    }

    /// Follows a reference found in a document there. Nothing when it holds what could end a line of the request.
    fn join(&self, reference: &str) -> Option<Self> {
        if reference.starts_with("http://") {
            return Self::parse(reference);
        }
        let slash = if reference.starts_with('/') { "" } else { "/" };
        let path = format!("{slash}{reference}");
        let sound = path.len() <= MAX_PATH && path.bytes().all(|byte| byte.is_ascii_graphic());
        sound.then_some(Self { port: self.port, path })
    }
}

/// An HTTP request to the gateway: GET, or POST with an action and a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) to: HttpPlace,
    pub(crate) soap: Option<Soap>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Soap {
    /// Value of the header `SOAPAction`.
    pub(crate) action: String,
    pub(crate) body: String,
}

/// An answer: the status, and as much of the body as was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Response<'a> {
    pub(crate) ok: bool,
    pub(crate) body: &'a str,
}

/// A service that maps ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Control {
    to: HttpPlace,
    service: String,
}

/// A mapping that the device has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) control: Control,
    pub(crate) external: u16,
    pub(crate) address: Ipv4Addr,
    /// Until it is deleted or the device restarts.
    pub(crate) permanent: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Describe(HttpPlace),
    Status(usize),
    Address(usize),
    Add {
        control: Control,
        any: bool,
    },
    Outside {
        control: Control,
        external: u16,
    },
    /// A mapping of unknown address is of no use, and must not be left behind.
    Undo {
        control: Control,
        external: u16,
    },
    Done(Mapping),
    Failed,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Talk {
    place: Place,
    stage: Stage,
    services: Vec<Control>,
    ranks: Vec<Rank>,
    /// External port asked for.
    external: u16,
    ports: u32,
    permanent: bool,
}

/// How good a service is, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Public,
    Private,
    Connected,
    Unknown,
}

impl Talk {
    /// A device whose description is there. `external` is the port to ask for first.
    pub(crate) fn new(place: Place, description: HttpPlace, external: u16) -> Self {
        Self {
            place,
            stage: Stage::Describe(description),
            services: Vec::new(),
            ranks: Vec::new(),
            external: external.max(1_024),
            ports: 0,
            permanent: false,
        }
    }

    /// The same mapping again.
    pub(crate) fn renew(place: Place, mapping: &Mapping) -> Self {
        let control = mapping.control.clone();
        let any = control.service.ends_with("WANIPConnection:2");
        Self {
            stage: Stage::Add { control, any },
            permanent: mapping.permanent,
            ..Self::new(place, mapping.control.to.clone(), mapping.external)
        }
    }

    /// What to ask next; nothing at the end.
    pub(crate) fn next(&self) -> Option<Request> {
        match &self.stage {
            Stage::Describe(place) => Some(Request {
                to: place.clone(),
                soap: None,
            }),
            Stage::Status(at) => self
                .services
                .get(*at)
                .map(|control| request(control, "GetStatusInfo", &[])),
            Stage::Address(at) => self
                .services
                .get(*at)
                .map(|control| request(control, "GetExternalIPAddress", &[])),
            Stage::Add { control, any } => Some(self.add_request(control, *any)),
            Stage::Outside { control, .. } => Some(request(control, "GetExternalIPAddress", &[])),
            Stage::Undo { control, external } => Some(delete(control, *external)),
            Stage::Done(_) | Stage::Failed => None,
        }
    }

    /// What came of it: nothing where there was no answer.
    pub(crate) fn handle(&mut self, response: Option<Response<'_>>) {
        let stage = std::mem::replace(&mut self.stage, Stage::Failed);
        let ok = response.filter(|response| response.ok).map(|response| response.body);
        self.stage = match stage {
            Stage::Describe(place) => match ok {
                Some(body) => self.choose(services(body, &place)),
                None => Stage::Failed,
            },
            Stage::Status(at) => {
                let status = ok
                    .and_then(|body| xml::leaf(body, "NewConnectionStatus"))
                    .unwrap_or_default();
                if status.eq_ignore_ascii_case("connected") || status.eq_ignore_ascii_case("up") {
                    Stage::Address(at)
                } else {
                    self.rank(at, Rank::Unknown)
                }
            }
            Stage::Address(at) => {
                let rank = match ok.and_then(external_address) {
                    Some(address) if address.is_private() => Rank::Private,
                    Some(_) => Rank::Public,
                    None => Rank::Connected,
                };
                self.rank(at, rank)
            }
            Stage::Add { control, any } => self.added(control, any, response),
            Stage::Outside { control, external } => match ok.and_then(external_address) {
                Some(address) => Stage::Done(Mapping {
                    control,
                    external,
                    address,
                    permanent: self.permanent,
                }),
                None => Stage::Undo { control, external },
            },
            Stage::Undo { .. } => Stage::Failed,
            Stage::Done(_) | Stage::Failed => stage,
        };
    }

    /// The mapping, when it all went well.
    pub(crate) fn into_mapping(self) -> Option<Mapping> {
        if let Stage::Done(mapping) = self.stage {
            Some(mapping)
        } else {
            None
        }
    }

    fn choose(&mut self, services: Vec<Control>) -> Stage {
        self.services = services;
        match self.services.len() {
            0 => Stage::Failed,
            1 => self.begin_with(0),
            _ => Stage::Status(0),
        }
    }

    fn rank(&mut self, at: usize, rank: Rank) -> Stage {
        self.ranks.push(rank);
        if rank != Rank::Public && at + 1 < self.services.len() {
            return Stage::Status(at + 1);
        }
        let best = self.ranks.iter().enumerate().min_by_key(|(_, rank)| **rank);
        self.begin_with(best.map_or(0, |(at, _)| at))
    }

    fn begin_with(&self, at: usize) -> Stage {
        match self.services.get(at) {
            Some(control) => Stage::Add {
                control: control.clone(),
                any: control.service.ends_with("WANIPConnection:2"),
            },
            None => Stage::Failed,
        }
    }

    fn add_request(&self, control: &Control, any: bool) -> Request {
        let action = if any { "AddAnyPortMapping" } else { "AddPortMapping" };
        let lease = if self.permanent { 0 } else { LIFETIME };
        let arguments = [
            ("NewRemoteHost", String::new()),
            ("NewExternalPort", self.external.to_string()),
            ("NewProtocol", "UDP".to_owned()),
            ("NewInternalPort", self.place.port.to_string()),
            ("NewInternalClient", self.place.own.to_string()),
            ("NewEnabled", "1".to_owned()),
            ("NewPortMappingDescription", "sandd".to_owned()),
            ("NewLeaseDuration", lease.to_string()),
        ];
        request(control, action, &arguments)
    }

    fn added(&mut self, control: Control, any: bool, response: Option<Response<'_>>) -> Stage {
        let Some(response) = response else { return Stage::Failed };
        if response.ok {
            let reserved = any.then(|| xml::leaf(response.body, "NewReservedPort")).flatten();
            let external = reserved.and_then(|port| port.parse().ok()).unwrap_or(self.external);
            return if external < LEAST_PORT {
                Stage::Failed
            } else {
                Stage::Outside { control, external }
            };
        }
        let code = xml::leaf(response.body, "errorCode").unwrap_or_default();
        if ONLY_PERMANENT.contains(&code.as_str()) && !self.permanent {
            self.permanent = true;
        } else if code == CONFLICT && self.ports < MAX_PORTS {
            self.ports += 1;
            // Somewhere else among the ports that need no privilege.
            self.external = 1_024 + (self.external - 1_024).wrapping_add(7_919) % (u16::MAX - 1_024);
        } else if any && NO_SUCH_ACTION.contains(&code.as_str()) {
            return Stage::Add { control, any: false };
        } else {
            return Stage::Failed;
        }
        Stage::Add { control, any }
    }
}

/// Gives a mapping back.
pub(crate) fn delete_request(mapping: &Mapping) -> Request {
    delete(&mapping.control, mapping.external)
}

fn delete(control: &Control, external: u16) -> Request {
    let arguments = [
        ("NewRemoteHost", String::new()),
        ("NewExternalPort", external.to_string()),
        ("NewProtocol", "UDP".to_owned()),
    ];
    request(control, "DeletePortMapping", &arguments)
}

/// The values are ours or checked before: nothing in them needs escaping.
fn request(control: &Control, action: &str, arguments: &[(&str, String)]) -> Request {
    let service = &control.service;
    let mut body = format!(
        "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{action} xmlns:u=\"{service}\">"
    );
    for (name, value) in arguments {
        let _ = write!(body, "<{name}>{value}</{name}>");
    }
    let _ = write!(body, "</u:{action}></s:Body></s:Envelope>\r\n");
    Request {
        to: control.to.clone(),
        soap: Some(Soap {
            action: format!("\"{service}#{action}\""),
            body,
        }),
    }
}

fn external_address(body: &str) -> Option<Ipv4Addr> {
    let address: Ipv4Addr = xml::leaf(body, "NewExternalIPAddress")?.parse().ok()?;
    let usable = !address.is_unspecified() && !address.is_loopback() && !address.is_multicast();
    usable.then_some(address)
}

/// The services of a description that map ports, best kind first.
fn services(description: &str, at: &HttpPlace) -> Vec<Control> {
    let mut found: Vec<(usize, Control)> = Vec::new();
    let mut base = at.clone();
    let (mut service, mut control) = (None, None);
    for piece in xml::pieces(description) {
        match piece {
            Piece::Open("service") => (service, control) = (None, None),
            Piece::Leaf("URLBase", url) => base = HttpPlace::parse(&url).unwrap_or(base),
            Piece::Leaf("serviceType", text) => service = Some(text),
            Piece::Leaf("controlURL", text) => control = Some(text),
            Piece::Open(_) | Piece::Leaf(..) => {}
        }
        if found.len() >= MAX_SERVICES {
            break;
        }
        if let (Some(kind), Some(url)) = (&service, &control) {
            if let (Some(preference), Some(to)) = (preference(kind), base.join(url)) {
                let service = kind.clone();
                found.push((preference, Control { to, service }));
            }
            (service, control) = (None, None);
        }
    }
    found.sort_by_key(|(preference, _)| *preference);
    found.into_iter().map(|(_, control)| control).collect()
}

fn preference(service: &str) -> Option<usize> {
    const KNOWN: [&str; 5] = [
        "urn:schemas-upnp-org:service:WANIPConnection:2",
        "urn:schemas-upnp-org:service:WANIPConnection:1",
        "urn:schemas-upnp-org:service:WANPPPConnection:1",
        "urn:dslforum-org:service:WANIPConnection:1",
        "urn:dslforum-org:service:WANPPPConnection:1",
    ];
    KNOWN.iter().position(|known| *known == service)
}
