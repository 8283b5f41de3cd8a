{{- define "warmswap.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "warmswap.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "warmswap.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "warmswap.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "warmswap.selectorLabels" -}}
app.kubernetes.io/name: {{ include "warmswap.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "warmswap.labels" -}}
{{ include "warmswap.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: warmswap
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "warmswap.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "warmswap.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "warmswap.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{/* Everything before SIGKILL: the hook, the requests in work, a margin. */}}
{{- define "warmswap.gracePeriod" -}}
{{- add .Values.shutdown.preStopSeconds .Values.shutdown.exitTimeoutSeconds .Values.shutdown.marginSeconds -}}
{{- end -}}

{{/* Where the model repository lies in the container. */}}
{{- define "warmswap.repository" -}}
{{- if eq .Values.models.source "stager" -}}
/cache/current
{{- else if eq .Values.models.source "baked" -}}
/models
{{- else if eq .Values.models.source "imageVolume" -}}
/models/{{ .Values.models.path | default "models" }}
{{- else -}}
{{ printf "/models/%s" .Values.models.path | trimSuffix "/" }}
{{- end -}}
{{- end -}}

{{/* Where the repository lies that is served: what was compiled, the pod's own copy, or the repository itself. */}}
{{- define "warmswap.served" -}}
{{- if .Values.compile.enabled -}}
/compiled/repository
{{- else if .Values.models.writable.enabled -}}
/repository/current
{{- else -}}
{{ include "warmswap.repository" . }}
{{- end -}}
{{- end -}}

{{/* Whether the stager brings the pod's own copy by itself: without a cache of the node a second copy would be for nothing. */}}
{{- define "warmswap.stagesOwnCopy" -}}
{{- if and .Values.models.writable.enabled (eq .Values.models.source "stager") (not .Values.models.stager.cache) -}}
true
{{- end -}}
{{- end -}}

{{/* Of the container that serves. An own copy on the node's disk is asked for, unless `resources` says how much. */}}
{{- define "warmswap.resources" -}}
{{- $own := dict -}}
{{- if and .Values.models.writable.enabled (not (hasKey .Values.models.writable.volume "ephemeral")) -}}
{{- $own = dict "requests" (dict "ephemeral-storage" .Values.models.writable.sizeLimit) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $own (deepCopy .Values.resources)) -}}
{{- end -}}

{{/* Whether the repository must be mounted into every container that reads it. */}}
{{- define "warmswap.modelMounts" -}}
{{- if eq .Values.models.source "stager" }}
- {name: model-cache, mountPath: /cache, readOnly: true}
{{- else if ne .Values.models.source "baked" }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- end -}}

{{- define "warmswap.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- if .Values.knative.enabled }}
# Knative lets a pod have none of these, unless a feature is on that is off by default.
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- end -}}

{{- define "warmswap.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* What must go together, checked in one place. */}}
{{- define "warmswap.check" -}}
{{- $v := .Values -}}
{{- if and $v.autoscaling.hpa.enabled $v.autoscaling.keda.enabled -}}
{{- fail "autoscaling.hpa.enabled and autoscaling.keda.enabled are both true: KEDA makes an HPA of its own, two would fight; set autoscaling.hpa.enabled=false" -}}
{{- end -}}
{{- if gt (int $v.autoscaling.hpa.minReplicas) (int $v.autoscaling.hpa.maxReplicas) -}}
{{- fail (printf "autoscaling.hpa.minReplicas (%v) is above autoscaling.hpa.maxReplicas (%v)" $v.autoscaling.hpa.minReplicas $v.autoscaling.hpa.maxReplicas) -}}
{{- end -}}
{{- if gt (int $v.autoscaling.keda.minReplicas) (int $v.autoscaling.keda.maxReplicas) -}}
{{- fail (printf "autoscaling.keda.minReplicas (%v) is above autoscaling.keda.maxReplicas (%v)" $v.autoscaling.keda.minReplicas $v.autoscaling.keda.maxReplicas) -}}
{{- end -}}
{{- range $v.autoscaling.keda.cron -}}
{{- if gt (int .desiredReplicas) (int $v.autoscaling.keda.maxReplicas) -}}
{{- fail (printf "autoscaling.keda.cron: desiredReplicas %v is above autoscaling.keda.maxReplicas (%v)" .desiredReplicas $v.autoscaling.keda.maxReplicas) -}}
{{- end -}}
{{- end -}}
{{- if and $v.autoscaling.hpa.enabled (gt (int $v.autoscaling.hpa.cpuPercent) 0) (not (dig "requests" "cpu" "" $v.resources)) -}}
{{- fail "autoscaling.hpa.cpuPercent is a share of resources.requests.cpu, which is not set" -}}
{{- end -}}
{{- if and (eq $v.models.source "imageVolume") (not $v.models.imageVolume.reference) -}}
{{- fail "models.source is imageVolume: set models.imageVolume.reference to the image of the models, best with its digest" -}}
{{- end -}}
{{- if and (eq $v.models.source "imageVolume") (semverCompare "<1.33.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "models.source imageVolume needs Kubernetes 1.33 or newer, this is %s: an older API server drops the volume in silence; use stager or baked" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (eq $v.models.source "stager") (not $v.models.stager.from) -}}
{{- fail "models.source is stager: set models.stager.from to a folder or an archive under /source, or to the URL of an archive" -}}
{{- end -}}
{{- if and (hasPrefix "http" $v.models.stager.from) (not $v.models.stager.sha256) -}}
{{- fail "models.stager.from is a URL: set models.stager.sha256 to the digest of the archive" -}}
{{- end -}}
{{- if and (hasPrefix "/source" $v.models.stager.from) (not $v.models.stager.volume) -}}
{{- fail "models.stager.from lies under /source: set models.stager.volume to the volume that is mounted there" -}}
{{- end -}}
{{- if and (eq $v.models.source "volume") (not $v.models.volume) -}}
{{- fail "models.source is volume: set models.volume to the volume that holds the model repository" -}}
{{- end -}}
{{- if $v.models.writable.enabled -}}
{{- if $v.compile.enabled -}}
{{- fail "models.writable.enabled and compile.enabled are both true: a compiled repository is for one machine, and hot rollouts refuse it; set one to false" -}}
{{- end -}}
{{- range $v.serve.extraArgs -}}
{{- if hasPrefix "--compile" . -}}
{{- fail (printf "models.writable.enabled is true and serve.extraArgs has %s: a compiled repository is for one machine, and hot rollouts refuse it" .) -}}
{{- end -}}
{{- end -}}
{{- if $v.knative.enabled -}}
{{- fail "models.writable.enabled and knative.enabled are both true: Knative adds and ends pods as it likes, and each begins with the versions of its source; bring a new revision instead" -}}
{{- end -}}
{{- if not $v.controlToken.secretName -}}
{{- fail "models.writable.enabled is true: set controlToken.secretName, or nobody could roll anything out: without it each replica has a token that only its launcher knows" -}}
{{- end -}}
{{- range $kind, $_ := $v.models.writable.volume -}}
{{- if not (has $kind (list "emptyDir" "ephemeral")) -}}
{{- fail (printf "models.writable.volume is a %s: each pod needs a volume of its own, so take emptyDir or ephemeral. On a shared one the models of a new image would never arrive" $kind) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.tls.clientCA (not $v.tls.secretName) -}}
{{- fail "tls.clientCA needs tls.secretName, the secret with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- if and $v.serve.requireGpu (not (dig "limits" "nvidia.com/gpu" "" $v.resources)) -}}
{{- fail "serve.requireGpu is true and resources.limits has no nvidia.com/gpu: the pod would land on a node without one, and end" -}}
{{- end -}}
{{- if and $v.gateway.enabled (not $v.gateway.parentRefs) -}}
{{- fail "gateway.enabled is true: set gateway.parentRefs to the Gateway that the routes belong to" -}}
{{- end -}}
{{- if and $v.knative.enabled (or $v.autoscaling.hpa.enabled $v.autoscaling.keda.enabled) -}}
{{- fail "knative.enabled is true: Knative scales by itself; set autoscaling.hpa.enabled=false and autoscaling.keda.enabled=false" -}}
{{- end -}}
{{- if and $v.knative.enabled $v.tls.secretName -}}
{{- fail "knative.enabled is true: Knative ends TLS at its ingress; leave tls.secretName empty" -}}
{{- end -}}
{{- if and $v.knative.enabled (gt (int $v.knative.minScale) (int $v.knative.maxScale)) -}}
{{- fail (printf "knative.minScale (%v) is above knative.maxScale (%v)" $v.knative.minScale $v.knative.maxScale) -}}
{{- end -}}
{{- if gt (int $v.autoscaling.keda.fallbackReplicas) (int $v.autoscaling.keda.maxReplicas) -}}
{{- fail (printf "autoscaling.keda.fallbackReplicas (%v) is above autoscaling.keda.maxReplicas (%v)" $v.autoscaling.keda.fallbackReplicas $v.autoscaling.keda.maxReplicas) -}}
{{- end -}}
{{- if and $v.autoscaling.hpa.enabled (not $v.autoscaling.hpa.cpuPercent) (not $v.autoscaling.hpa.memoryPercent) -}}
{{- fail "autoscaling.hpa.cpuPercent and autoscaling.hpa.memoryPercent are both 0: the HPA would have nothing to scale on; set one, or autoscaling.hpa.enabled=false" -}}
{{- end -}}
{{- if gt (float64 $v.keepAlive.maxLatencySeconds) (float64 $v.keepAlive.timeoutSeconds) -}}
{{- fail (printf "keepAlive.maxLatencySeconds (%v) is above keepAlive.timeoutSeconds (%v): it could never be reached" $v.keepAlive.maxLatencySeconds $v.keepAlive.timeoutSeconds) -}}
{{- end -}}
{{- if and (eq (int $v.rollout.maxSurge) 0) (eq (int $v.rollout.maxUnavailable) 0) -}}
{{- fail "rollout.maxSurge and rollout.maxUnavailable are both 0: no rollout could begin" -}}
{{- end -}}
{{- $startup := mul $v.probes.startup.periodSeconds $v.probes.startup.failureThreshold -}}
{{- if le (int $v.rollout.progressDeadlineSeconds) (int (add $startup $v.rollout.minReadySeconds)) -}}
{{- fail (printf "rollout.progressDeadlineSeconds (%v) must be above the startup budget plus minReadySeconds (%d s)" $v.rollout.progressDeadlineSeconds (int (add $startup $v.rollout.minReadySeconds))) -}}
{{- end -}}
{{- end -}}
