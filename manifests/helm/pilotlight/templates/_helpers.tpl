{{- define "pilotlight.labels" -}}
app.kubernetes.io/name: pilotlight
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* provider.yaml: what the chart knows, with the user's over it. */}}
{{- define "pilotlight.provider" -}}
{{- $ours := dict
  "stateDir" "/var/lib/pilotlight"
  "catalog" "catalog.yaml"
  "costPolicy" "cost-policy.yaml"
  "agents" (dict "listen" "0.0.0.0:10255" "authoritySecret" (dict "namespace" .Release.Namespace "name" "pilotlight-agent-ca"))
  "leaderElection" (dict "enabled" true "namespace" .Release.Namespace "labelPod" true)
  "telemetry" (dict "listen" "0.0.0.0:10280")
}}
{{- if .Values.prices }}
{{- $_ := set $ours "prices" "prices.yaml" }}
{{- end }}
{{- toYaml (mergeOverwrite $ours (deepCopy .Values.provider)) }}
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
