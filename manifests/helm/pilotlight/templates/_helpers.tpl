{{- define "pilotlight.labels" -}}
app.kubernetes.io/name: pilotlight
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/*
provider.yaml: what the chart knows, with the user's over it. What other objects of the chart are made for (ports, names,
mounted files) may be said, but not said otherwise.
*/}}
{{- define "pilotlight.provider" -}}
{{- $ours := dict
  "stateDir" "/var/lib/pilotlight"
  "catalog" "catalog.yaml"
  "agents" (dict "listen" "0.0.0.0:10255" "authoritySecret" (dict "namespace" .Release.Namespace "name" "pilotlight-agent-ca"))
  "leaderElection" (dict "enabled" true "namespace" .Release.Namespace "labelPod" true)
  "telemetry" (dict "listen" "0.0.0.0:10280")
}}
{{- if not (kindIs "invalid" .Values.costPolicy) }}
{{- $_ := set $ours "costPolicy" "cost-policy.yaml" }}
{{- end }}
{{- if .Values.prices }}
{{- $_ := set $ours "prices" "prices.yaml" }}
{{- end }}
{{- /* It is the default already. */}}
{{- $fixed := mergeOverwrite (deepCopy $ours) (dict "leaderElection" (dict "leaseName" "pilotlight")) }}
{{- include "pilotlight.asOurs" (list "provider" $fixed .Values.provider) }}
{{- $unmounted := "its text in the value %s: the chart mounts no other file" }}
{{- range $key := list "costPolicy" "prices" }}
{{- if and (hasKey $.Values.provider $key) (not (hasKey $ours $key)) }}
{{- include "pilotlight.refuse" (list (printf "provider.%s" $key) (get $.Values.provider $key) (printf $unmounted $key)) }}
{{- end }}
{{- end }}
{{- if .Values.provider.kubeconfig }}
{{- include "pilotlight.refuse" (list "provider.kubeconfig" .Values.provider.kubeconfig "none: the Pod's ServiceAccount is used") }}
{{- end }}
{{- with (.Values.provider.cloud.ec2 | default dict).identityCertificate }}
{{- include "pilotlight.refuse" (list "provider.cloud.ec2.identityCertificate" . "none: the chart mounts no such file") }}
{{- end }}
{{- /* On the machines' network no NetworkPolicy holds. */}}
{{- $held := and .Values.networkPolicy.enabled (not .Values.hostNetwork) }}
{{- range $index, $node := .Values.provider.nodes }}
{{- if and $held (or (lt (int $node.kubeletPort) 10260) (gt (int $node.kubeletPort) 10269)) }}
{{- include "pilotlight.refuse" (list (printf "provider.nodes[%d].kubeletPort" $index) $node.kubeletPort "10260 to 10269, which the NetworkPolicy lets in") }}
{{- end }}
{{- end }}
{{- toYaml (mergeOverwrite $ours (deepCopy .Values.provider)) }}
{{- end }}

{{/*
Refuses what differs from ours, at any depth; all addresses of IPv6 have those of IPv4 among them. Given (list path ours theirs).
*/}}
{{- define "pilotlight.asOurs" -}}
{{- $path := index . 0 }}
{{- $theirs := index . 2 }}
{{- range $key, $ours := index . 1 }}
{{- if and (kindIs "map" $theirs) (hasKey $theirs $key) }}
{{- $at := printf "%s.%s" $path $key }}
{{- $given := get $theirs $key }}
{{- if and (kindIs "map" $ours) (kindIs "map" $given) }}
{{- include "pilotlight.asOurs" (list $at $ours $given) }}
{{- else if not (has (toJson $given) (list (toJson $ours) (toJson $ours | replace "0.0.0.0:" "[::]:"))) }}
{{- include "pilotlight.refuse" (list $at $given (printf "%s, or nothing: what else the chart installs is made for it" (toJson $ours))) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Given (list key value expected). */}}
{{- define "pilotlight.refuse" -}}
{{- fail (printf "%s is %s: expected %s" (index . 0) (toJson (index . 1)) (index . 2)) }}
{{- end }}

{{/*
What a running provider does not take up by itself: a change of it rolls the Deployment. The rest of provider.yaml, and the
files that it names, are reloaded (ProviderConfig::needs_restart).
*/}}
{{- define "pilotlight.needsRestart" -}}
{{- $provider := include "pilotlight.provider" . | fromYaml }}
{{- $agents := omit $provider.agents "registrationTimeout" }}
{{- $reloaded := list "standby" "defaults" "keepCompletedPods" "catalog" "costPolicy" "prices" }}
{{- range $key := $reloaded }}
{{- $_ := unset $provider $key }}
{{- end }}
{{- toJson (set $provider "agents" $agents) | sha256sum }}
{{- end }}

{{/* The user's, but never on a virtual node; and replicas apart, unless the user says something else of Pods. */}}
{{- define "pilotlight.affinity" -}}
{{- $affinity := deepCopy (.Values.affinity | default dict) }}
{{- $notOnItself := dict "key" "type" "operator" "NotIn" "values" (list "virtual-kubelet") }}
{{- $node := $affinity.nodeAffinity | default dict }}
{{- $required := $node.requiredDuringSchedulingIgnoredDuringExecution | default dict }}
{{- /* One of the terms must hold: each says it. */}}
{{- $terms := list }}
{{- range $term := $required.nodeSelectorTerms | default (list dict) }}
{{- $terms = append $terms (set $term "matchExpressions" (append ($term.matchExpressions | default list) $notOnItself)) }}
{{- end }}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) }}
{{- $_ := set $affinity "nodeAffinity" $node }}
{{- if not (hasKey $affinity "podAntiAffinity") }}
{{- $ours := dict "matchLabels" (dict "app.kubernetes.io/name" "pilotlight") }}
{{- $apart := dict "weight" 100 "podAffinityTerm" (dict "topologyKey" "kubernetes.io/hostname" "labelSelector" $ours) }}
{{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list $apart)) }}
{{- end }}
{{- toYaml $affinity }}
{{- end }}

{{/* The image by its digest, if that is said, or else by its tag. */}}
{{- define "pilotlight.image" -}}
{{- with .Values.image.digest -}}
{{ $.Values.image.repository }}@{{ . }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The variables that the user adds to those of the downward API. */}}
{{- define "pilotlight.extraEnv" -}}
{{- range $variable := .Values.extraEnv | default list }}
{{- if has $variable.name (list "POD_IP" "POD_NAME" "POD_NAMESPACE") }}
{{- include "pilotlight.refuse" (list "extraEnv" $variable.name "another name: the chart says that of the Pod") }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}{{ toYaml . }}{{ end }}
{{- end }}

{{/* Of ServiceMonitor and PrometheusRule: by the user's a Prometheus selects them. */}}
{{- define "pilotlight.monitoringLabels" -}}
{{- toYaml (mergeOverwrite (include "pilotlight.labels" . | fromYaml) (deepCopy (.Values.monitoring.labels | default dict))) }}
{{- end }}

{{- define "pilotlight.nodeNames" -}}
{{- $names := list }}
{{- range .Values.provider.nodes }}
{{- $names = append $names (printf "pilotlight-%s" .zone) }}
{{- end }}
{{- toJson $names }}
{{- end }}

{{/*
The documents of a file that kustomize uses too, for this release: its namespace, its ServiceAccount, its nodes' names, its
signer. Given (list root text).
*/}}
{{- define "pilotlight.shared" -}}
{{- $root := index . 0 }}
{{- $identity := $root.Values.provider.nodeIdentity | default dict }}
{{- $signer := $identity.serving | default "kubernetes.io/kubelet-serving" }}
{{- range $text := splitList "\n---\n" (index . 1) }}
{{- $object := fromYaml $text }}
{{- if and $object (ne $object.kind "Namespace") }}
{{- $labels := $object.metadata.labels | default dict }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version) }}
{{- $_ := set $object.metadata "labels" $labels }}
{{- if eq ($object.metadata.namespace | default "") "pilotlight-system" }}
{{- $_ := set $object.metadata "namespace" $root.Release.Namespace }}
{{- end }}
{{- if $object.subjects }}
{{- $account := dict "kind" "ServiceAccount" "name" "pilotlight" "namespace" $root.Release.Namespace }}
{{- $_ := set $object "subjects" (list $account) }}
{{- end }}
{{- $rules := list }}
{{- range $rule := $object.rules }}
{{- if not (and (eq ($identity.client | default "certificate") "serviceAccount") (has "certificatesigningrequests/nodeclient" $rule.resources)) }}
{{- $rules = append $rules $rule }}
{{- end }}
{{- if and (has "signers" $rule.resources) (contains "/" $signer) }}
{{- $_ := set $rule "resourceNames" (list $signer) }}
{{- end }}
{{- if and (eq $object.metadata.name "pilotlight-as-nodes") $rule.resourceNames }}
{{- $_ := set $rule "resourceNames" (include "pilotlight.nodeNames" $root | fromJsonArray) }}
{{- end }}
{{- end }}
{{- if $rules }}
{{- $_ := set $object "rules" $rules }}
{{- end }}
---
{{ toYaml $object }}
{{- end }}
{{- end }}
{{- end }}
