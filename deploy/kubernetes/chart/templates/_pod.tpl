{{/* The options of `warmswap serve`. */}}
{{- define "warmswap.args" -}}
{{- $v := .Values -}}
- --host=0.0.0.0
- --http-port=8000
- --grpc-port=8001
- --metrics-port=8002
- --repository={{ include "warmswap.served" . }}
- --exit-timeout={{ $v.shutdown.exitTimeoutSeconds }}
{{- if $v.knative.enabled }}
- --drain-delay={{ $v.shutdown.preStopSeconds }}
{{- end }}
- --policy={{ $v.serve.policy }}
- --on-failure={{ $v.serve.onFailure }}
- --max-restarts={{ $v.serve.maxRestarts }}
- --grpc-max-connection-age={{ $v.serve.grpcMaxConnectionAgeSeconds }}
- --log-format={{ $v.serve.logFormat }}
- --request-log={{ $v.serve.requestLog }}
{{- with $v.release }}
- --release={{ . }}
{{- end }}
{{- with $v.serve.configName }}
- --config-name={{ . }}
{{- end }}
{{- if $v.serve.requireGpu }}
- --require-gpu
{{- end }}
{{- if $v.serve.warmupRequests }}
- --warmup-requests={{ $v.serve.warmupRequests }}
{{- end }}
{{- if $v.serve.residency }}
- --residency=/config/residency.toml
{{- end }}
{{- if $v.controlToken.secretName }}
- --control-token-file=/control/{{ $v.controlToken.key }}
{{- end }}
{{- if $v.tls.secretName }}
- --tls-cert=/tls/tls.crt
- --tls-key=/tls/tls.key
{{- if $v.tls.clientCA }}
- --tls-client-ca=/tls/ca.crt
{{- end }}
{{- end }}
{{- if $v.tracing.url }}
- --trace-url={{ $v.tracing.url }}
- --trace-rate={{ $v.tracing.rate }}
{{- end }}
{{- range $v.serve.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "warmswap.initContainers" -}}
{{- $v := .Values -}}
{{- if eq $v.models.source "stager" }}
- name: provision
  image: {{ include "warmswap.image" . }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  command: [warmswap, provision]
  args:
    - --from={{ $v.models.stager.from }}
    {{- if include "warmswap.stagesOwnCopy" . }}
    - --to=/repository
    - --once
    {{- else }}
    - --to=/cache
    {{- end }}
    {{- with $v.models.stager.sha256 }}
    - --sha256={{ . }}
    {{- end }}
  terminationMessagePolicy: FallbackToLogsOnError
  securityContext:
    {{- include "warmswap.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml $v.resources | nindent 4 }}
  volumeMounts:
    {{- if include "warmswap.stagesOwnCopy" . }}
    - {name: repository, mountPath: /repository}
    {{- else }}
    - {name: model-cache, mountPath: /cache}
    {{- end }}
    - {name: tmp, mountPath: /tmp}
    {{- if $v.models.stager.volume }}
    - {name: model-source, mountPath: /source, readOnly: true}
    {{- end }}
{{- end }}
{{- if and $v.models.writable.enabled (not (include "warmswap.stagesOwnCopy" .)) }}
- name: own-copy   # --once: a node that was restarted runs this again, and the copy may have changed since
  image: {{ include "warmswap.image" . }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  command: [warmswap, provision]
  args:
    - --from={{ include "warmswap.repository" . }}
    - --to=/repository
    - --once
  terminationMessagePolicy: FallbackToLogsOnError
  securityContext:
    {{- include "warmswap.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml $v.resources | nindent 4 }}
  volumeMounts:
    {{- include "warmswap.modelMounts" . | nindent 4 }}
    - {name: repository, mountPath: /repository}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- if $v.compile.enabled }}
- name: compile
  image: {{ include "warmswap.image" . }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  command: [warmswap, compile]
  args:
    - --repository={{ include "warmswap.repository" . }}
    - --out=/compiled/repository
    - --cache=/compile-cache
  terminationMessagePolicy: FallbackToLogsOnError
  securityContext:
    {{- include "warmswap.containerSecurity" . | nindent 4 }}
  resources:
    {{- toYaml $v.resources | nindent 4 }}
  volumeMounts:
    {{- include "warmswap.modelMounts" . | nindent 4 }}
    - {name: compiled, mountPath: /compiled}
    - {name: compile-cache, mountPath: /compile-cache}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end -}}

{{/* The container that serves. `.ports` and `.lifecycle` differ between a Deployment and Knative. */}}
{{- define "warmswap.container" -}}
{{- $v := .Values -}}
name: warmswap
image: {{ include "warmswap.image" . }}
imagePullPolicy: {{ $v.image.pullPolicy }}
command: [python, -m, warmswap_ops]
args:
  {{- include "warmswap.args" . | nindent 2 }}
{{- with $v.serve.env }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
terminationMessagePolicy: FallbackToLogsOnError   # the launcher writes its reason to /dev/termination-log
securityContext:
  {{- include "warmswap.containerSecurity" . | nindent 2 }}
resources:
  {{- include "warmswap.resources" . | nindent 2 }}
volumeMounts:
  - {name: shm, mountPath: /dev/shm}
  - {name: tmp, mountPath: /tmp}
  - {name: cache, mountPath: /var/cache/warmswap}
  {{- if $v.models.writable.enabled }}
  - {name: repository, mountPath: /repository}
  {{- else }}
  {{- include "warmswap.modelMounts" . | nindent 2 }}
  {{- end }}
  {{- if $v.compile.enabled }}
  - {name: compiled, mountPath: /compiled, readOnly: true}
  {{- end }}
  {{- if $v.serve.residency }}
  - {name: config, mountPath: /config, readOnly: true}
  {{- end }}
  {{- if $v.controlToken.secretName }}
  - {name: control-token, mountPath: /control, readOnly: true}
  {{- end }}
  {{- if $v.tls.secretName }}
  - {name: tls, mountPath: /tls, readOnly: true}
  {{- end }}
{{- end -}}

{{- define "warmswap.volumes" -}}
{{- $v := .Values -}}
- name: shm   # Triton's Python backend passes pictures through it; a container's own is 64 MB
  emptyDir: {medium: Memory, sizeLimit: {{ $v.sharedMemory.sizeLimit }}}
- name: tmp
  emptyDir: {sizeLimit: {{ $v.tmp.sizeLimit }}}
- name: cache
  emptyDir: {sizeLimit: 1Gi}
{{- if eq $v.models.source "imageVolume" }}
- name: models
  image:
    reference: {{ $v.models.imageVolume.reference }}
    pullPolicy: {{ $v.models.imageVolume.pullPolicy }}
{{- else if eq $v.models.source "volume" }}
- name: models
  {{- toYaml $v.models.volume | nindent 2 }}
{{- else if eq $v.models.source "stager" }}
{{- if not (include "warmswap.stagesOwnCopy" .) }}
- name: model-cache
  {{- toYaml (default (dict "emptyDir" dict) $v.models.stager.cache) | nindent 2 }}
{{- end }}
{{- with $v.models.stager.volume }}
- name: model-source
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- if $v.models.writable.enabled }}
- name: repository   # of this pod alone; gone with it
  {{- toYaml (default (dict "emptyDir" (dict "sizeLimit" $v.models.writable.sizeLimit)) $v.models.writable.volume) | nindent 2 }}
{{- end }}
{{- if $v.compile.enabled }}
- name: compiled
  emptyDir: {}
- name: compile-cache
  {{- toYaml (default (dict "emptyDir" dict) $v.compile.cache) | nindent 2 }}
{{- end }}
{{- if $v.serve.residency }}
- name: config
  configMap: {name: {{ include "warmswap.fullname" . }}}
{{- end }}
{{- if $v.controlToken.secretName }}
- name: control-token   # not optional: without the secret the pod waits, and says for what
  secret: {secretName: {{ $v.controlToken.secretName }}, defaultMode: 0440}
{{- end }}
{{- if $v.tls.secretName }}
- name: tls
  secret: {secretName: {{ $v.tls.secretName }}, defaultMode: 0440}
{{- end }}
{{- end -}}
