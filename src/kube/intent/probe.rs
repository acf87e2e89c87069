//! Probes and lifecycle hooks. Named ports become numbers here: nothing further in knows the names.

use super::{
    at_least_zero,
    refuse::{Refusals, Rule},
};
use crate::model::{Handler, Lifecycle, PortSpec, Probe};
use k8s_openapi::{api::core::v1 as api, apimachinery::pkg::util::intstr::IntOrString};

/// `key` is the probe's name in the container: `livenessProbe`, …
pub(super) fn probe(probe: &api::Probe, key: &str, ports: &[PortSpec], refusals: &mut Refusals) -> Option<Probe> {
    let api::Probe {
        exec,
        failure_threshold,
        grpc,
        http_get,
        initial_delay_seconds,
        period_seconds,
        success_threshold,
        tcp_socket,
        termination_grace_period_seconds,
        timeout_seconds,
    } = probe;
    let rules = Rules { port: Rule::ProbePort, protocol: Rule::ProbeProtocol, scheme: Rule::ProbeScheme, key };
    let action = match (exec, http_get, tcp_socket, grpc) {
        (Some(exec), ..) => command(exec),
        (None, Some(http_get), ..) => http(http_get, &rules, ports, refusals)?,
        (None, None, Some(api::TCPSocketAction { host, port }), _) => {
            Handler::Tcp { host: super::non_empty(host), port: number(port, &rules, ports, refusals)? }
        }
        (None, None, None, Some(api::GRPCAction { mode, port, service })) => {
            if let Some(mode) = mode.as_deref().filter(|mode| !matches!(*mode, "" | "Plaintext")) {
                refusals.refuse(Rule::ProbeGrpcMode, &[key], mode);
            }
            let port = number(&IntOrString::Int(*port), &rules, ports, refusals)?;
            Handler::Grpc { port, service: service.clone().unwrap_or_default() }
        }
        (None, None, None, None) => {
            refusals.refuse(Rule::ProbeHandler, &[key], "nothing");
            return None;
        }
    };
    // Zero stands for the default, as in pkg/apis/core/v1/defaults.go, SetDefaults_Probe.
    let or = |value: &Option<i32>, default: u32| match value.map(u32::try_from) {
        Some(Ok(value)) if value > 0 => value,
        _ => default,
    };
    Some(Probe {
        action,
        initial_delay_seconds: or(initial_delay_seconds, 0),
        period_seconds: or(period_seconds, 10),
        timeout_seconds: or(timeout_seconds, 1),
        success_threshold: or(success_threshold, 1),
        failure_threshold: or(failure_threshold, 3),
        termination_grace_seconds: termination_grace_period_seconds.map(at_least_zero),
    })
}

pub(super) fn lifecycle(lifecycle: &api::Lifecycle, ports: &[PortSpec], refusals: &mut Refusals) -> Lifecycle {
    let api::Lifecycle { post_start, pre_stop, stop_signal } = lifecycle;
    if let Some(signal) = stop_signal.as_deref().filter(|signal| !signal.is_empty()) {
        refusals.refuse(Rule::StopSignal, &[], signal);
    }
    Lifecycle {
        post_start: post_start.as_ref().and_then(|handler| hook(handler, "postStart", ports, refusals)),
        pre_stop: pre_stop.as_ref().and_then(|handler| hook(handler, "preStop", ports, refusals)),
    }
}

fn hook(hook: &api::LifecycleHandler, key: &str, ports: &[PortSpec], refusals: &mut Refusals) -> Option<Handler> {
    let api::LifecycleHandler { exec, http_get, sleep, tcp_socket } = hook;
    let rules = Rules { port: Rule::HookPort, protocol: Rule::HookProtocol, scheme: Rule::HookScheme, key };
    match (exec, http_get, sleep) {
        (Some(exec), ..) => Some(command(exec)),
        (None, Some(http_get), _) => http(http_get, &rules, ports, refusals),
        (None, None, Some(api::SleepAction { seconds })) => Some(Handler::Sleep { seconds: at_least_zero(*seconds) }),
        (None, None, None) => {
            let value = if tcp_socket.is_some() { "tcpSocket" } else { "nothing" };
            refusals.refuse(Rule::HookHandler, &[key], value);
            None
        }
    }
}

/// Which rule a handler breaks depends on where it stands.
struct Rules<'a> {
    port: Rule,
    protocol: Rule,
    scheme: Rule,
    key: &'a str,
}

fn command(exec: &api::ExecAction) -> Handler {
    let api::ExecAction { command } = exec;
    Handler::Exec { command: command.clone().unwrap_or_default() }
}

fn http(
    action: &api::HTTPGetAction,
    rules: &Rules<'_>,
    ports: &[PortSpec],
    refusals: &mut Refusals,
) -> Option<Handler> {
    let api::HTTPGetAction { host, http_headers, path, port, protocol, scheme } = action;
    if let Some(protocol) = protocol.as_deref().filter(|protocol| !matches!(*protocol, "" | "HTTP1")) {
        refusals.refuse(rules.protocol, &[rules.key], protocol);
    }
    let https = match scheme.as_deref().map(str::to_ascii_uppercase).as_deref() {
        None | Some("" | "HTTP") => false,
        Some("HTTPS") => true,
        Some(other) => {
            refusals.refuse(rules.scheme, &[rules.key], other);
            false
        }
    };
    let header = |api::HTTPHeader { name, value }: &api::HTTPHeader| (name.clone(), value.clone());
    Some(Handler::Http {
        host: super::non_empty(host),
        port: number(port, rules, ports, refusals)?,
        path: super::non_empty(path).unwrap_or_else(|| "/".to_owned()),
        https,
        headers: http_headers.iter().flatten().map(header).collect(),
    })
}

/// A named port is looked for among the container's own alone (pkg/probe/util.go, ResolveContainerPort).
fn number(port: &IntOrString, rules: &Rules<'_>, ports: &[PortSpec], refusals: &mut Refusals) -> Option<u16> {
    let found = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => ports
            .iter()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    let found = found.filter(|port| *port > 0);
    if found.is_none() {
        let value = match port {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(name) => name.clone(),
        };
        refusals.refuse(rules.port, &[rules.key], value);
    }
    found
}
