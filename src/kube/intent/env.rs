//! Environment variables and their sources.

use super::{
    field_path,
    refuse::{Refusals, Rule},
};
use crate::model::{EnvFrom, EnvValue, EnvVar, ObjectRef, ResourceField};
use k8s_openapi::api::core::v1 as api;

pub(super) fn variable(variable: &api::EnvVar, refusals: &mut Refusals) -> Option<EnvVar> {
    let api::EnvVar { name, value, value_from } = variable;
    // kubelet looks at valueFrom only where value is empty (kubelet_pods.go, makeEnvironmentVariables).
    let literal = value.clone().unwrap_or_default();
    let value = match value_from {
        Some(source) if literal.is_empty() => self::source(name, source, refusals)?,
        _ => EnvValue::Literal(literal),
    };
    Some(EnvVar { name: name.clone(), value })
}

fn source(variable: &str, source: &api::EnvVarSource, refusals: &mut Refusals) -> Option<EnvValue> {
    let api::EnvVarSource { config_map_key_ref, field_ref, file_key_ref, resource_field_ref, secret_key_ref } = source;
    if let Some(api::FileKeySelector { key: _, optional: _, path, volume_name }) = file_key_ref {
        refusals.refuse(Rule::EnvFile, &[variable], format_args!("{volume_name}/{path}"));
        return None;
    }
    if let Some(reference) = field_ref {
        let api::ObjectFieldSelector { api_version, field_path } = reference;
        let path = field_path::for_env(api_version.as_deref(), field_path);
        if path.is_none() {
            refusals.refuse(Rule::EnvField, &[variable], field_path);
        }
        return path.map(EnvValue::Field);
    }
    if let Some(reference) = resource_field_ref {
        let field = resource_field(reference);
        if field.is_none() {
            refusals.refuse(Rule::EnvResource, &[variable], &reference.resource);
        }
        return field.map(EnvValue::ResourceField);
    }
    if let Some(api::ConfigMapKeySelector { key, name, optional }) = config_map_key_ref {
        let optional = optional.unwrap_or(false);
        return Some(EnvValue::ConfigMapKey { name: name.clone(), key: key.clone(), optional });
    }
    if let Some(api::SecretKeySelector { key, name, optional }) = secret_key_ref {
        let optional = optional.unwrap_or(false);
        return Some(EnvValue::SecretKey { name: name.clone(), key: key.clone(), optional });
    }
    refusals.refuse(Rule::EnvSource, &[variable], "nothing");
    None
}

/// None: not a resource that an instance has.
pub(super) fn resource_field(reference: &api::ResourceFieldSelector) -> Option<ResourceField> {
    let api::ResourceFieldSelector { container_name, divisor, resource } = reference;
    let (_, kind) = resource.split_once('.').filter(|(of, _)| matches!(*of, "limits" | "requests"))?;
    matches!(kind, "cpu" | "memory" | "ephemeral-storage").then(|| ResourceField {
        container: container_name.clone().filter(|name| !name.is_empty()),
        resource: resource.clone(),
        divisor: divisor.as_ref().map_or_else(|| "1".to_owned(), |divisor| divisor.0.clone()),
    })
}

pub(super) fn from(index: usize, from: &api::EnvFromSource, refusals: &mut Refusals) -> Option<EnvFrom> {
    let api::EnvFromSource { config_map_ref, prefix, secret_ref } = from;
    let (source, optional) = match (config_map_ref, secret_ref) {
        (Some(api::ConfigMapEnvSource { name, optional }), _) => (ObjectRef::ConfigMap(name.clone()), optional),
        (None, Some(api::SecretEnvSource { name, optional })) => (ObjectRef::Secret(name.clone()), optional),
        (None, None) => {
            refusals.refuse(Rule::EnvFromSource, &[&index.to_string()], "nothing");
            return None;
        }
    };
    Some(EnvFrom { prefix: prefix.clone().unwrap_or_default(), source, optional: optional.unwrap_or(false) })
}
