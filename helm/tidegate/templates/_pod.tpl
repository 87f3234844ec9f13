{{/* Parts of the pod that would make the Deployment hard to read. */}}

{{/* Secrets by reference; nothing else of the gateway's is set here, the rest is in the ConfigMap. */}}
{{- define "tidegate.containerEnv" -}}
{{- $secrets := dict "TIDEGATE_BROKER" .Values.secrets.brokerUrl "TIDEGATE_API_KEY" .Values.secrets.apiKey "TIDEGATE_AUTH__SECRET" .Values.secrets.authSecret }}
{{- $entries := list }}
{{- range $variable, $secret := $secrets }}
{{- if $secret.name }}
{{- $entries = append $entries (dict "name" $variable "valueFrom" (dict "secretKeyRef" (dict "name" $secret.name "key" $secret.key))) }}
{{- end }}
{{- end }}
{{- if (.Values.settings.telemetry).otlp_endpoint }}
{{- $entries = append $entries (dict "name" "POD_NAME" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name"))) }}
{{- $attributes := printf "k8s.namespace.name=%s,k8s.deployment.name=%s,k8s.pod.name=$(POD_NAME)" .Release.Namespace (include "tidegate.fullname" .) }}
{{- $entries = append $entries (dict "name" "OTEL_RESOURCE_ATTRIBUTES" "value" $attributes) }}
{{- end }}
{{- /* What was given comes first, as an entry can name only those above it, and stands in the place of ours. */}}
{{- $given := list }}
{{- range .Values.extraEnv }}{{ $given = append $given .name }}{{ end }}
{{- $all := .Values.extraEnv }}
{{- range $entries }}{{ if not (has .name $given) }}{{ $all = append $all . }}{{ end }}{{ end }}
{{- with $all }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* "true" when /tmp is a small volume of ours: the root is read-only, and nothing else is mounted there. */}}
{{- define "tidegate.ownTmp" -}}
{{- $own := .Values.securityContext.readOnlyRootFilesystem }}
{{- range .Values.extraVolumeMounts }}{{ if eq (clean .mountPath) "/tmp" }}{{ $own = false }}{{ end }}{{ end }}
{{- if $own }}true{{ end }}
{{- end }}

{{/*
How many pods. With an autoscaler that is not for us to say, but a number that was there before and is left out now would become 1:
so an upgrade says the one that is there. Without a cluster to ask (`helm template`) there is none.
*/}}
{{- define "tidegate.replicas" -}}
{{- if not .Values.autoscaling.enabled }}
{{- .Values.replicaCount }}
{{- else }}
{{- with lookup "apps/v1" "Deployment" .Release.Namespace (include "tidegate.fullname" .) }}
{{- .spec.replicas | int }}
{{- end }}
{{- end }}
{{- end }}

{{/* Per ReplicaSet, so that a rolling update does not count the pods that are about to go. */}}
{{- define "tidegate.topologySpread" -}}
{{- $constraints := list }}
{{- range $key, $how := dict "topology.kubernetes.io/zone" .Values.topologySpread.zone "kubernetes.io/hostname" .Values.topologySpread.host }}
{{- if $how }}
{{- $selector := dict "matchLabels" (include "tidegate.selectorLabels" $ | fromYaml) }}
{{- $constraints = append $constraints (dict "maxSkew" 1 "topologyKey" $key "whenUnsatisfiable" $how "labelSelector" $selector "matchLabelKeys" (list "pod-template-hash")) }}
{{- end }}
{{- end }}
{{- with $constraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
