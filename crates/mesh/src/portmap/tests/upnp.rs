//! The dialects of UPnP devices, as conversations.

use crate::portmap::Place;
use crate::portmap::igd::{HttpPlace, Mapping, Request, Response, Talk, delete_request};

const ONE: &str = "<root><URLBase>http://192.168.9.9:1234</URLBase><device><serviceList><service>\
    <serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/l3f</controlURL></service>\
    <service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
    <SCPDURL>/x.xml</SCPDURL><controlURL>ctl/IPConn</controlURL></service></serviceList></device></root>";

fn talk() -> Talk {
    let place = Place::new([192, 168, 1, 1].into(), [192, 168, 1, 2].into(), 41_641).unwrap();
    let description = HttpPlace::parse("http://192.168.1.1:5000/rootDesc.xml").unwrap();
    Talk::new(place, description, 50_000)
}

fn action(request: &Request) -> &str {
    let Some(soap) = &request.soap else { return "GET" };
    soap.action.split_once('#').unwrap().1.trim_end_matches('"')
}

/// Answers each request by its action until the talk ends; gives what was asked and what came of it.
fn converse(mut talk: Talk, answer: impl Fn(&Request) -> Result<String, u32>) -> (Vec<String>, Option<Mapping>) {
    let mut asked = Vec::new();
    while let Some(request) = talk.next() {
        asked.push(action(&request).to_owned());
        assert!(asked.len() < 50, "it never ends: {asked:?}");
        match answer(&request) {
            Ok(body) => talk.handle(Some(Response { ok: true, body: &body })),
            Err(0) => talk.handle(None),
            Err(code) => {
                let body = format!("<e><errorCode>{code}</errorCode></e>");
                talk.handle(Some(Response { ok: false, body: &body }));
            }
        }
    }
    (asked, talk.into_mapping())
}

fn outside(address: &str) -> String {
    format!("<r><NewExternalIPAddress>{address}</NewExternalIPAddress></r>")
}

fn field(request: &Request, name: &str) -> String {
    crate::portmap::xml::leaf(&request.soap.as_ref().unwrap().body, name).unwrap()
}

#[test]
fn an_ordinary_device_maps_the_port() {
    let (asked, mapping) = converse(talk(), |request| match action(request) {
        "GET" => Ok(ONE.to_owned()),
        "AddPortMapping" => {
            assert_eq!((request.to.port, request.to.path.as_str()), (1_234, "/ctl/IPConn"));
            let expected = [
                ("NewRemoteHost", ""),
                ("NewExternalPort", "50000"),
                ("NewProtocol", "UDP"),
                ("NewInternalPort", "41641"),
                ("NewInternalClient", "192.168.1.2"),
                ("NewEnabled", "1"),
                ("NewLeaseDuration", "7200"),
            ];
            for (name, value) in expected {
                assert_eq!(field(request, name), value, "{name}");
            }
            Ok(String::new())
        }
        _ => Ok(outside("10.1.2.3")),
    });
    assert_eq!(asked, ["GET", "AddPortMapping", "GetExternalIPAddress"]);
    let mapping = mapping.unwrap();
    assert_eq!((mapping.external, mapping.permanent), (50_000, false));
    assert_eq!(
        mapping.address.to_string(),
        "10.1.2.3",
        "private, and worth telling: peers inside that NAT reach it"
    );
    let delete = delete_request(&mapping);
    assert_eq!(
        (action(&delete), field(&delete, "NewExternalPort")),
        ("DeletePortMapping", "50000".to_owned())
    );
}

#[test]
fn a_device_that_knows_permanent_leases_only_gets_its_will() {
    for code in [725, 402] {
        let (asked, mapping) = converse(talk(), |request| match action(request) {
            "GET" => Ok(ONE.to_owned()),
            "AddPortMapping" if field(request, "NewLeaseDuration") != "0" => Err(code),
            "AddPortMapping" => Ok(String::new()),
            _ => Ok(outside("203.0.113.7")),
        });
        assert_eq!(
            asked,
            ["GET", "AddPortMapping", "AddPortMapping", "GetExternalIPAddress"]
        );
        assert!(mapping.unwrap().permanent);
    }
}

#[test]
fn a_taken_port_is_left_for_another_one_and_not_for_ever() {
    let (_, mapping) = converse(talk(), |request| match action(request) {
        "GET" => Ok(ONE.to_owned()),
        "AddPortMapping" if field(request, "NewExternalPort") == "50000" => Err(718),
        _ => Ok(outside("203.0.113.7")),
    });
    let external = mapping.unwrap().external;
    assert!(external >= 1_024 && external != 50_000, "{external}");
    let (asked, mapping) = converse(talk(), |request| {
        if request.soap.is_none() {
            Ok(ONE.to_owned())
        } else {
            Err(718)
        }
    });
    assert_eq!((asked.len(), mapping), (6, None));
}

#[test]
fn of_several_services_the_connected_and_public_one_is_taken() {
    let service = |kind: &str, url: &str| {
        format!(
            "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType><controlURL>{url}</controlURL></service>"
        )
    };
    let description = [
        service("WANPPPConnection:1", "/ppp"),
        service("WANIPConnection:1", "/down"),
        service("WANIPConnection:2", "/private"),
        "<service><controlURL>/odd</controlURL></service>".to_owned(),
    ];
    let description = format!("<root>{}</root>", description.concat());
    let (asked, mapping) = converse(talk(), |request| match (action(request), request.to.path.as_str()) {
        ("GET", _) => Ok(description.clone()),
        ("GetStatusInfo", "/down") => Ok("<a><NewConnectionStatus>Disconnected</NewConnectionStatus></a>".to_owned()),
        ("GetStatusInfo", _) => Ok("<a><NewConnectionStatus>Connected</NewConnectionStatus></a>".to_owned()),
        ("GetExternalIPAddress", "/private") => Ok(outside("192.168.0.2")),
        ("GetExternalIPAddress", "/ppp") => Ok(outside("203.0.113.7")),
        ("AddPortMapping", "/ppp") => Ok(String::new()),
        other => panic!("{other:?}"),
    });
    let expected = [
        "GET",
        "GetStatusInfo",
        "GetExternalIPAddress",
        "GetStatusInfo",
        "GetStatusInfo",
        "GetExternalIPAddress",
        "AddPortMapping",
        "GetExternalIPAddress",
    ];
    assert_eq!(asked, expected);
    assert_eq!(mapping.unwrap().address.to_string(), "203.0.113.7");
}

#[test]
fn the_second_version_may_choose_the_port_or_not_know_how() {
    let description = ONE.replace("WANIPConnection:1", "WANIPConnection:2");
    let (_, mapping) = converse(talk(), |request| match action(request) {
        "GET" => Ok(description.clone()),
        "AddAnyPortMapping" => Ok("<r><NewReservedPort>3333</NewReservedPort></r>".to_owned()),
        _ => Ok(outside("203.0.113.7")),
    });
    assert_eq!(mapping.unwrap().external, 3_333);
    let (asked, mapping) = converse(talk(), |request| match action(request) {
        "GET" => Ok(description.clone()),
        "AddAnyPortMapping" => Err(401),
        "AddPortMapping" => Ok(String::new()),
        _ => Ok(outside("203.0.113.7")),
    });
    assert_eq!(
        asked,
        ["GET", "AddAnyPortMapping", "AddPortMapping", "GetExternalIPAddress"]
    );
    assert_eq!(mapping.unwrap().external, 50_000);
}

#[test]
fn a_mapping_without_an_address_is_given_back() {
    for useless in ["0.0.0.0", "127.0.0.1", "", "x"] {
        let (asked, mapping) = converse(talk(), |request| match action(request) {
            "GET" => Ok(ONE.to_owned()),
            "GetExternalIPAddress" => Ok(outside(useless)),
            _ => Ok(String::new()),
        });
        assert_eq!(asked.last().unwrap(), "DeletePortMapping");
        assert_eq!(mapping, None);
    }
}

#[test]
fn silence_refusal_and_nonsense_end_it() {
    for refusal in [0, 501, 606] {
        let (asked, mapping) = converse(talk(), |_| Err(refusal));
        assert_eq!((asked.len(), mapping), (1, None));
        let (asked, mapping) = converse(talk(), |request| match action(request) {
            "GET" => Ok(ONE.to_owned()),
            _ => Err(refusal),
        });
        assert_eq!((asked.len(), mapping), (2, None));
    }
    let (asked, mapping) = converse(talk(), |_| Ok("<root>no service".to_owned()));
    assert_eq!((asked.len(), mapping), (1, None));
    let injected = ONE.replace("ctl/IPConn", "/a HTTP/1.1&#13;");
    let (asked, _) = converse(talk(), |_| Ok(injected.clone()));
    assert_eq!(asked.len(), 1, "a path with a blank is no path");
}

#[test]
fn a_renewal_asks_for_the_same_again() {
    let (_, mapping) = converse(talk(), |request| match action(request) {
        "GET" => Ok(ONE.to_owned()),
        _ => Ok(outside("203.0.113.7")),
    });
    let mapping = mapping.unwrap();
    let place = Place::new([192, 168, 1, 1].into(), [192, 168, 1, 2].into(), 41_641).unwrap();
    let (asked, renewed) = converse(Talk::renew(place, &mapping), |_| Ok(outside("203.0.113.7")));
    assert_eq!(asked, ["AddPortMapping", "GetExternalIPAddress"]);
    assert_eq!(renewed, Some(mapping));
}
