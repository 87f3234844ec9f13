{{/* Names, labels, and what more than one template needs. What is wrong with the values is in _checks.tpl. */}}

{{- define "tidegate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Room is left for the longest suffix, "-dashboard-" and a dashboard's name: names of Services have at most 63 characters. */}}
{{- define "tidegate.fullname" -}}
{{- $name := include "tidegate.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What never changes, so that an upgrade finds the pods of the version before. */}}
{{- define "tidegate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tidegate.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: gateway
{{- end }}

{{/* The pods of `helm test`: no member of any Service, PodDisruptionBudget or ReplicaSet. */}}
{{- define "tidegate.testLabels" -}}
app.kubernetes.io/name: {{ include "tidegate.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: test
{{- end }}

{{/* All labels of an object, as a map: `root`, the `component` labels, and `extra` ones. Ours win, and no key is there twice. */}}
{{- define "tidegate.labelsOf" -}}
{{- $labels := .component | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/version" .root.Chart.AppVersion }}
{{- $_ := set $labels "app.kubernetes.io/part-of" "tidegate" }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .root.Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- toYaml (merge $labels .extra .root.Values.commonLabels) }}
{{- end }}

{{- define "tidegate.labels" -}}
{{- include "tidegate.labelsOf" (dict "root" . "component" (include "tidegate.selectorLabels" .) "extra" dict) }}
{{- end }}

{{- define "tidegate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "tidegate.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "tidegate.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* "true" when rooms live inside one pod only. A URL in a Secret cannot be read here and is taken for a real broker. */}}
{{- define "tidegate.brokerIsMemory" -}}
{{- if and (not .Values.secrets.brokerUrl.name) (hasPrefix "memory:" .Values.broker.url) }}true{{ end }}
{{- end }}

{{/* "true" when somebody outside of the cluster can reach the public port. */}}
{{- define "tidegate.isPublic" -}}
{{- if or .Values.ingress.enabled .Values.httpRoute.enabled (ne .Values.service.type "ClusterIP") }}true{{ end }}
{{- end }}

{{/* A setting's value as text. Helm reads numbers of a values file as floats: 1048576 must not become 1.048576e+06. */}}
{{- define "tidegate.text" -}}
{{- if kindIs "slice" . }}{{ join "," . }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}
{{- else }}{{ toString . }}
{{- end }}
{{- end }}

{{/* The tree of settings as variables: rate_limit.burst is TIDEGATE_RATE_LIMIT__BURST. What is empty counts as not set. */}}
{{- define "tidegate.variables" -}}
{{- range $name, $value := .tree }}
{{- $variable := print $.prefix (upper $name) }}
{{- if kindIs "map" $value }}
{{- include "tidegate.variables" (dict "prefix" (print $variable "__") "tree" $value) }}
{{- else if not (or (kindIs "invalid" $value) (eq (include "tidegate.text" $value) "")) }}
{{ $variable }}: {{ include "tidegate.text" $value | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{/* Everything that the ConfigMap holds; its checksum is on the pods, so that a change rolls them. */}}
{{- define "tidegate.configuration" -}}
TIDEGATE_HOST: {{ .Values.listenAddress | toJson }}
TIDEGATE_PORT: "8000"
TIDEGATE_OPS_HOST: {{ .Values.listenAddress | toJson }}
TIDEGATE_OPS_PORT: "9000"
{{- if not .Values.secrets.brokerUrl.name }}
TIDEGATE_BROKER: {{ .Values.broker.url | toJson }}
{{- end }}
{{- include "tidegate.variables" (dict "prefix" "TIDEGATE_" "tree" .Values.settings) }}
{{- end }}

{{/* preStop + drain delay + drain period + abort + margin, rounded up: the kubelet's clock starts before preStop. */}}
{{- define "tidegate.gracePeriodSeconds" -}}
{{- with .Values.settings.drain }}
{{- addf $.Values.preStopSeconds .delay_seconds .period_seconds .abort_after_seconds $.Values.terminationGraceMarginSeconds | ceil | int64 }}
{{- end }}
{{- end }}

{{/* Scale up at once, down slowly: a pod that goes makes all of its clients connect anew. */}}
{{- define "tidegate.scalingBehavior" -}}
{{- with .Values.autoscaling }}
scaleUp:
  stabilizationWindowSeconds: 0
  selectPolicy: Max
  policies:
    - type: Percent
      value: 100
      periodSeconds: 60
    - type: Pods
      value: 2
      periodSeconds: 60
scaleDown:
  stabilizationWindowSeconds: {{ .scaleDown.stabilizationSeconds }}
  selectPolicy: Min
  policies:
    - type: Pods
      value: {{ .scaleDown.podsPerStep }}
      periodSeconds: {{ .scaleDown.stepSeconds }}
{{- end }}
{{- end }}

{{/* Idle time-outs of proxies, in the words of the controller that was named. */}}
{{- define "tidegate.ingressTimeouts" -}}
{{- $seconds := .Values.ingress.idleTimeoutSeconds | int64 }}
{{- $controller := .Values.ingress.controller }}
{{- if eq $controller "nginx" }}
nginx.ingress.kubernetes.io/proxy-read-timeout: {{ $seconds | quote }}
nginx.ingress.kubernetes.io/proxy-send-timeout: {{ $seconds | quote }}
{{- else if eq $controller "nginx-inc" }}
nginx.org/websocket-services: {{ include "tidegate.fullname" . | quote }}
nginx.org/proxy-read-timeout: {{ $seconds }}s
nginx.org/proxy-send-timeout: {{ $seconds }}s
{{- else if eq $controller "haproxy" }}
haproxy.org/timeout-tunnel: {{ $seconds }}s
{{- else if eq $controller "haproxy-ingress" }}
haproxy-ingress.github.io/timeout-tunnel: {{ $seconds }}s
{{- else if eq $controller "alb" }}
alb.ingress.kubernetes.io/target-type: ip
alb.ingress.kubernetes.io/healthcheck-path: /readyz
alb.ingress.kubernetes.io/load-balancer-attributes: idle_timeout.timeout_seconds={{ min $seconds 4000 }}
{{- end }}
{{- end }}

{{/* A file of the chart, as it is except that links to runbooks lead where people find them. */}}
{{- define "tidegate.file" -}}
{{- $text := .root.Files.Get .path }}
{{- with .root.Values.monitoring.runbooks }}
{{- $text = replace "dashboards/runbooks" (trimSuffix "/" .) $text }}
{{- end }}
{{- $text }}
{{- end }}
