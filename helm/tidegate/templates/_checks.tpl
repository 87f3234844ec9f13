{{/*
What cannot work, or would open a door that nobody decided to open. Every problem is one sentence that says what to do;
all of them are told at once. Types and unknown keys are the business of values.schema.json.
*/}}
{{- define "tidegate.problems" -}}
{{- $v := .Values }}
{{- $memory := include "tidegate.brokerIsMemory" . }}
{{- $realBroker := "give a Redis or NATS in broker.url, or in a Secret named by secrets.brokerUrl.name" }}
{{- if and $memory (not $v.autoscaling.enabled) (gt (int $v.replicaCount) 1) }}
- replicaCount is {{ $v.replicaCount }}, but with the memory broker rooms live inside one pod: members on different pods would not hear each other; {{ $realBroker }}, or set replicaCount to 1
{{- end }}
{{- if and $memory $v.autoscaling.enabled }}
- autoscaling.enabled needs a broker that joins the pods, and broker.url is {{ $v.broker.url }}: members on different pods would not hear each other; {{ $realBroker }}, or switch autoscaling off
{{- end }}
{{- if regexMatch "://[^/?#]*@" $v.broker.url }}
- broker.url carries credentials, and values are no place for them; put the URL into a Secret and name it in secrets.brokerUrl.name
{{- end }}
{{- if and (include "tidegate.isPublic" .) (ne $v.settings.auth.mode "jwt") (not $v.allowPublicWithoutAuth) }}
- the gateway would be reachable from outside ({{ if $v.ingress.enabled }}ingress.enabled{{ else if $v.httpRoute.enabled }}httpRoute.enabled{{ else }}service.type is {{ $v.service.type }}{{ end }}) and everybody could join every room; set settings.auth.mode to jwt and give a key, or, when that is meant, allowPublicWithoutAuth to true
{{- end }}
{{- $keys := list }}
{{- if $v.secrets.authSecret.name }}{{ $keys = append $keys "secrets.authSecret.name" }}{{ end }}
{{- if $v.settings.auth.public_key }}{{ $keys = append $keys "settings.auth.public_key" }}{{ end }}
{{- if $v.settings.auth.jwks_url }}{{ $keys = append $keys "settings.auth.jwks_url" }}{{ end }}
{{- if and (eq $v.settings.auth.mode "jwt") (ne (len $keys) 1) }}
- settings.auth.mode is jwt, with {{ if $keys }}several keys ({{ join ", " $keys }}){{ else }}no key to check tokens with{{ end }}; give exactly one of secrets.authSecret.name, settings.auth.public_key, settings.auth.jwks_url
{{- end }}
{{- with $v.settings.drain }}
{{- if gt (addf .delay_seconds .period_seconds .abort_after_seconds) 3600.0 }}
- settings.drain: delay_seconds, period_seconds and abort_after_seconds make more than an hour, which the gateway refuses; shorten the period
{{- end }}
{{- end }}
{{- with $v.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
- autoscaling.minReplicas ({{ .minReplicas }}) is above autoscaling.maxReplicas ({{ .maxReplicas }}); swap them
{{- end }}
{{- $total := $v.settings.connection_limit.total }}
{{- if and .enabled (not (kindIs "string" $total)) (ge (int64 .connectionsPerPod) (int64 $total)) }}
- autoscaling.connectionsPerPod ({{ int64 .connectionsPerPod }}) is not below settings.connection_limit.total ({{ int64 $total }}): pods would refuse clients before another pod is asked for; leave about a third of room
{{- end }}
{{- if and .enabled (eq .kind "keda") (not .keda.prometheusAddress) }}
- autoscaling.kind is keda, and KEDA asks Prometheus for the number of connections; set autoscaling.keda.prometheusAddress
{{- end }}
{{- end }}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) }}
- ingress.enabled without ingress.hosts would take over every host of the controller; list the gateway's own
{{- end }}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) }}
- httpRoute.enabled without httpRoute.parentRefs attaches to nothing; name the Gateway
{{- end }}
{{- $interval := $v.settings.keepalive.interval_seconds }}
{{- if and $v.ingress.enabled (not (kindIs "string" $interval)) (ge (float64 $interval) (float64 $v.ingress.idleTimeoutSeconds)) }}
- ingress.idleTimeoutSeconds ({{ int64 $v.ingress.idleTimeoutSeconds }}) is not above settings.keepalive.interval_seconds ({{ include "tidegate.text" $interval }}): the proxy would cut quiet connections between two pings; make it longer, or the interval shorter
{{- end }}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.hostnames) }}
- httpRoute.enabled without httpRoute.hostnames would take {{ join " and " $v.httpRoute.paths }} of every host of the Gateway; list the gateway's own
{{- end }}
{{- if and (contains "DualStack" $v.service.ipFamilyPolicy) (ne $v.listenAddress "::") }}
- service.ipFamilyPolicy is {{ $v.service.ipFamilyPolicy }}, but listenAddress is {{ $v.listenAddress }}, which is IPv4 only; set listenAddress to "::", which is both
{{- end }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "tidegate.fullname" .)) }}
- the objects would be called {{ include "tidegate.fullname" . }}, and a Service's name begins with a letter, ends with a letter or figure, and has nothing else but these and hyphens; set fullnameOverride
{{- end }}
{{- if and (has (toString $v.strategy.maxSurge) (list "0" "0%")) (has (toString $v.strategy.maxUnavailable) (list "0" "0%")) }}
- strategy.maxSurge and strategy.maxUnavailable are both 0, so that a rollout could neither add a pod nor take one away; set maxSurge to 1
{{- end }}
{{- if gt (int $v.monitoring.scrapeTimeoutSeconds) (int $v.monitoring.intervalSeconds) }}
- monitoring.scrapeTimeoutSeconds ({{ $v.monitoring.scrapeTimeoutSeconds }}) is above monitoring.intervalSeconds ({{ $v.monitoring.intervalSeconds }}), which Prometheus refuses; lower it
{{- end }}
{{- if and $v.autoscaling.enabled (not ($v.resources.requests).cpu) }}
- autoscaling.cpuPercent is a part of resources.requests.cpu, and there is none; give one
{{- end }}
{{- include "tidegate.problemsOfExtras" . }}
{{- end }}

{{/* What is given for the pod as Kubernetes takes it: names that are there twice it would refuse, or not notice. */}}
{{- define "tidegate.problemsOfExtras" -}}
{{- $v := .Values }}
{{- range $v.extraEnv }}
{{- if hasPrefix "TIDEGATE_" (upper .name) }}
- extraEnv sets {{ .name }} behind the back of this chart's checks; use settings, broker or secrets
{{- end }}
{{- end }}
{{- $names := list }}
{{- range $v.extraVolumes }}{{ $names = append $names .name }}{{ end }}
{{- if and (include "tidegate.ownTmp" .) (has "tmp" $names) }}
- extraVolumes has a volume tmp, which is what the chart calls its own; mount it at /tmp, which replaces that one, or call it something else
{{- end }}
{{- range $v.extraVolumeMounts }}
{{- if not (has .name (append $names (ternary "tmp" "" (eq (include "tidegate.ownTmp" $) "true")))) }}
- extraVolumeMounts mounts {{ .name }}, which is not in extraVolumes; add it there
{{- end }}
{{- end }}
{{- range $what, $field := dict "extraEnv" "name" "extraVolumes" "name" "extraVolumeMounts" "mountPath" }}
{{- $seen := list }}
{{- range index $v $what }}
{{- $this := index . $field }}
{{- if has $this $seen }}
- {{ $what }} has {{ $this }} twice; take one away
{{- end }}
{{- $seen = append $seen $this }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tidegate.check" -}}
{{- with include "tidegate.problems" . | trim }}
{{- fail (printf "\n\nThese values cannot work:\n%s\n" .) }}
{{- end }}
{{- end }}
