{{/*
The pod of one part of the server: (dict "root" $ "part" "server" | "api" | "reconciler"). "server" is both in one process tree.
Only a part that makes tasks' pods has a token of the cluster.
*/}}
{{- define "tes.pod" -}}
{{- $root := .root -}}
{{- $part := .part -}}
{{- $values := $root.Values -}}
{{- $shared := eq (include "tes.shape" $root) "shared" -}}
{{- $tls := and (ne $values.tls.secretName "") (ne $part "reconciler") -}}
{{- $scheme := ternary ", scheme: HTTPS" "" $tls -}}
metadata:
  labels:
    {{- include "tes.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $part }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Other settings are other pods.
    tes-server/settings: {{ sha256sum (printf "%s\n%s" (include "tes.settings" $root) (include "tes.storeUrl" $root)) }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "tes.serviceAccount" $root }}
  automountServiceAccountToken: {{ and (ne $part "api") (eq (include "tes.inCluster" $root) "true") }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  securityContext:
    {{- toYaml $values.podSecurityContext | nindent 4 }}
  {{- with $values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ $part }}
      image: {{ include "tes.image" $root | quote }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args: {{ get (dict "server" (list "serve") "api" (list "serve" "--api-only") "reconciler" (list "reconcile")) $part | toJson }}
      env:
        - name: TES_SERVER_CONFIG
          value: /etc/tes-server/settings.toml
        - name: TES_SERVER__DATA
          value: /var/lib/tes-server
        # The uid has no home of its own.
        - name: HOME
          value: /tmp
        {{- with $values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: {{ ternary "metrics" "http" (eq $part "reconciler") }}
          containerPort: {{ ternary $values.settings.control.metrics_port $values.settings.server.port (eq $part "reconciler") }}
      {{- if eq $part "reconciler" }}
      startupProbe:
        httpGet: {path: /healthz, port: metrics}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /healthz, port: metrics}
        periodSeconds: 20
        timeoutSeconds: 10
        failureThreshold: 6
      {{- else }}
      startupProbe:
        httpGet: {path: /healthz, port: http{{ $scheme }}}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /healthz, port: http{{ $scheme }}}
        periodSeconds: 20
        timeoutSeconds: 10
        failureThreshold: 6
      # A store that is away is no reason to start anew, but to ask another pod.
      readinessProbe:
        httpGet: {path: /readyz, port: http{{ $scheme }}}
        periodSeconds: 5
        timeoutSeconds: 10
      lifecycle:
        preStop:
          exec:
            command: ["sleep", {{ $values.api.drainSeconds | toString | quote }}]
      {{- end }}
      resources:
        {{- toYaml (ternary $values.reconciler.resources $values.api.resources (eq $part "reconciler")) | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        - name: settings
          mountPath: /etc/tes-server/settings.toml
          subPath: settings.toml
          readOnly: true
        {{- if $shared }}
        - name: store
          mountPath: /etc/tes-server/store
          readOnly: true
        {{- end }}
        {{- if $tls }}
        # The directory and no single file: only so a renewed Secret is seen.
        - name: tls
          mountPath: /etc/tes-server/tls
          readOnly: true
        {{- end }}
        - name: data
          mountPath: /var/lib/tes-server
        - name: temporary
          mountPath: /tmp
        # Figures of the metrics, shared by the server's processes.
        - name: memory
          mountPath: /dev/shm
        {{- with $values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: settings
      configMap:
        name: {{ include "tes.fullname" $root }}
    {{- if $shared }}
    - name: store
      secret:
        secretName: {{ include "tes.storeSecret" $root }}
        items:
          - key: {{ $values.store.key }}
            path: url
    {{- end }}
    {{- if $tls }}
    - name: tls
      secret:
        secretName: {{ $values.tls.secretName }}
        # For the pod's group; a key that everybody can read is refused.
        defaultMode: 0440
        items:
          - {key: tls.crt, path: tls.crt}
          - {key: tls.key, path: tls.key}
    {{- end }}
    - name: data
      {{- if and (eq $part "server") $values.persistence.enabled }}
      persistentVolumeClaim:
        claimName: {{ default (printf "%s-data" (include "tes.fullname" $root)) $values.persistence.existingClaim }}
      {{- else }}
      emptyDir: {}
      {{- end }}
    - name: temporary
      emptyDir: {}
    - name: memory
      emptyDir: {medium: Memory, sizeLimit: 64Mi}
    {{- with $values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  affinity:
    {{- if $values.affinity }}
    {{- toYaml $values.affinity | nindent 4 }}
    {{- else }}
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "tes.selector" $root | nindent 16 }}
                app.kubernetes.io/component: {{ $part }}
    {{- end }}
  {{- with $values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
{{- end -}}
