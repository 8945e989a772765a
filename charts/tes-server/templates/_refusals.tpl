{{/* What contradicts itself is refused here, in words that say what to do. Included once, by the ConfigMap. */}}
{{- define "tes.refusals" -}}
{{- $store := dig "store" dict .Values.settings -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository: name the place where the nodes find the server's image (`make image` builds it; push it to your registry)" -}}
{{- end -}}
{{- if .Values.settings.data -}}
{{- fail "settings.data: the chart decides where the data directory is (persistence)" -}}
{{- end -}}
{{- if or (hasKey $store "url") (hasKey $store "url_file") -}}
{{- fail "settings.store.url: the connection string belongs into store.url or store.existingSecret, which keep it in a Secret" -}}
{{- end -}}
{{- if gt (add (ternary 1 0 (ne .Values.store.url "")) (ternary 1 0 (ne .Values.store.existingSecret "")) (ternary 1 0 .Values.mongodb.enabled)) 1 -}}
{{- fail "store.url, store.existingSecret and mongodb.enabled each name a store: give one of them" -}}
{{- end -}}
{{- if and .Values.store.url (not (regexMatch "^mongodb([+]srv)?://" .Values.store.url)) -}}
{{- fail "store.url: must begin with mongodb:// or mongodb+srv://; leave it empty for SQLite, which runs in one pod" -}}
{{- end -}}
{{- if eq (include "tes.shape" .) "single" -}}
{{- if or (gt (int .Values.api.replicas) 1) (gt (int .Values.reconciler.replicas) 1) .Values.api.autoscaling.enabled -}}
{{- fail "api.replicas, reconciler.replicas, api.autoscaling: SQLite is one file for one pod; several pods need a database that they share: give its mongodb:// url as store.url or store.existingSecret" -}}
{{- end -}}
{{- else if not (dig "control" "metrics_port" 0 .Values.settings) -}}
{{- fail "settings.control.metrics_port: must not be 0: the reconciler's probes ask it" -}}
{{- end -}}
{{- if and .Values.mongodb.enabled (not .Values.mongodb.image) -}}
{{- fail "mongodb.image: name an image with a MongoDB-compatible server" -}}
{{- end -}}
{{- if or (dig "server" "tls" "certificate" "" .Values.settings) (dig "server" "tls" "key" "" .Values.settings) -}}
{{- fail "settings.server.tls: name the Secret with certificate and key as tls.secretName; the chart mounts it, and its probes then ask by https" -}}
{{- end -}}
{{- $key := dig "azure_batch" "key_variable" "" .Values.settings -}}
{{- $given := list -}}
{{- range .Values.env }}{{ $given = append $given .name }}{{ end -}}
{{- if and $key (not .Values.envFrom) (not (has $key $given)) -}}
{{- fail (printf "settings.azure_batch.key_variable: give %s to the pods by env (valueFrom.secretKeyRef) or envFrom; without a key the server signs in by its identity" $key) -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts: name at least one host: requests for other names are refused (auth.hosts)" -}}
{{- end -}}
{{- end -}}
