{{/* Names, labels, and the settings as the server gets them. */}}

{{- define "tes.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: names of objects add up to 11, and names of pods must be names of hosts. */}}
{{- define "tes.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $whole .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "tes.selector" -}}
app.kubernetes.io/name: {{ include "tes.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tes.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "tes.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* The shape: "shared" (API pods and reconciler pods on one database) or "single" (one pod, SQLite). */}}
{{- define "tes.shape" -}}
{{- ternary "shared" "single" (or (ne .Values.store.url "") (ne .Values.store.existingSecret "") .Values.mongodb.enabled) -}}
{{- end -}}

{{- define "tes.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "tes.serviceAccount" -}}
{{- default (include "tes.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "tes.taskServiceAccount" -}}
{{- default (printf "%s-tasks" (include "tes.fullname" .)) .Values.taskServiceAccount.name -}}
{{- end -}}

{{/* "true" if tasks run in the cluster: not where settings.kubernetes.namespace is said to be empty. */}}
{{- define "tes.inCluster" -}}
{{- if dig "kubernetes" "namespace" .Release.Namespace .Values.settings }}true{{ end -}}
{{- end -}}

{{/* The namespace of the tasks' pods. */}}
{{- define "tes.taskNamespace" -}}
{{- dig "kubernetes" "namespace" "" .Values.settings | default .Release.Namespace -}}
{{- end -}}

{{/* Marks the Jobs of this release: no other one of the cluster may have it, and as a label it has room for 63 characters. */}}
{{- define "tes.serverId" -}}
{{- $whole := printf "%s.%s" .Release.Namespace (include "tes.fullname" .) -}}
{{- $short := ternary $whole (printf "%s-%s" (trunc 54 $whole) (sha256sum $whole | trunc 8)) (le (len $whole) 63) -}}
{{- dig "server" "id" "" .Values.settings | default $short -}}
{{- end -}}

{{/* The label of the tasks' pods: `names.label_value` of the server's id. */}}
{{- define "tes.serverLabel" -}}
{{- regexReplaceAll "[^A-Za-z0-9_.-]+" (include "tes.serverId" .) "-" | trunc 63 | trimAll "-_." -}}
{{- end -}}

{{- define "tes.storeSecret" -}}
{{- default (printf "%s-store" (include "tes.fullname" .)) .Values.store.existingSecret -}}
{{- end -}}

{{/* By which scheme the API is spoken to. */}}
{{- define "tes.scheme" -}}
{{- ternary "https" "http" (ne .Values.tls.secretName "") -}}
{{- end -}}

{{- define "tes.storeUrl" -}}
{{- if .Values.mongodb.enabled -}}
mongodb://{{ include "tes.fullname" . }}-mongodb:27017/tes
{{- else -}}
{{ .Values.store.url }}
{{- end -}}
{{- end -}}

{{/* The names by which clients may call the server, as JSON. */}}
{{- define "tes.hosts" -}}
{{- $name := include "tes.fullname" . -}}
{{- $inside := printf "%s.%s" $name .Release.Namespace -}}
{{- $service := list $name $inside (printf "%s.svc" $inside) (printf "%s.svc.%s" $inside .Values.clusterDomain) -}}
{{- $outside := ternary .Values.ingress.hosts list .Values.ingress.enabled -}}
{{- concat $service $outside (dig "auth" "hosts" list .Values.settings) | uniq | toJson -}}
{{- end -}}

{{/* The settings file: `settings` of the values, and what the chart knows where they say nothing. */}}
{{- define "tes.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $cluster := deepCopy (dig "kubernetes" dict $settings) -}}
{{- $known := dict "namespace" .Release.Namespace "image" (include "tes.image" .) "pull_policy" .Values.image.pullPolicy "pull_secrets" .Values.imagePullSecrets "service_account" (include "tes.taskServiceAccount" .) -}}
{{- range $key, $value := ternary $known dict (eq (include "tes.inCluster" .) "true") }}{{ if not (hasKey $cluster $key) }}{{ $_ := set $cluster $key $value }}{{ end }}{{ end -}}
{{- $_ := set $settings "kubernetes" $cluster -}}
{{- $batch := deepCopy (dig "azure_batch" dict $settings) -}}
{{- if and $batch.url (not $batch.image) -}}
{{- $_ := set $settings "azure_batch" (set $batch "image" (include "tes.image" .)) -}}
{{- end -}}
{{- $_ := set $settings "server" (set (deepCopy (dig "server" dict $settings)) "id" (include "tes.serverId" .)) -}}
{{- if .Values.tls.secretName -}}
{{- $tls := merge (dict "certificate" "/etc/tes-server/tls/tls.crt" "key" "/etc/tes-server/tls/tls.key") (dig "server" "tls" dict $settings) -}}
{{- $_ := set $settings "server" (set $settings.server "tls" $tls) -}}
{{- end -}}
{{- $_ := set $settings "auth" (set (deepCopy (dig "auth" dict $settings)) "hosts" (include "tes.hosts" . | fromJsonArray)) -}}
{{- if eq (include "tes.shape" .) "shared" -}}
{{- $_ := set $settings "store" (set (deepCopy (dig "store" dict $settings)) "url_file" "/etc/tes-server/store/url") -}}
{{- else -}}
{{- /* Everything is in one pod, whose API has the metrics of both. */ -}}
{{- $_ := set $settings "control" (set (deepCopy (dig "control" dict $settings)) "metrics_port" 0) -}}
{{- end -}}
{{- toToml $settings -}}
{{- end -}}
