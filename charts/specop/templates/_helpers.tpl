{{- define "specop.labels" -}}
app.kubernetes.io/name: specop
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "specop.selector" -}}
app.kubernetes.io/name: specop
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "specop.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "specop.user" -}}
{{ printf "system:serviceaccount:%s:%s" .Release.Namespace .Values.serviceAccount.name }}
{{- end }}

{{- /* What the operator reads at its start: operator/settings.py. */}}
{{- define "specop.settings" -}}
{{- $image := include "specop.image" . }}
{{- $runtimes := dict "jobTtlSeconds" .Values.jobTtlSeconds "unprovenTargets" .Values.unprovenTargets }}
{{- range $role, $runtime := .Values.runtimes }}
{{- $resources := dict }}
{{- range $part, $quantities := $runtime.resources }}
{{- $kept := dict }}
{{- range $resource, $quantity := $quantities }}
{{- /* null in values takes a default away */}}
{{- if not (kindIs "invalid" $quantity) }}
{{- $_ := set $kept $resource (toString $quantity) }}
{{- end }}
{{- end }}
{{- $_ := set $resources $part $kept }}
{{- end }}
{{- $own := dict "image" ($runtime.image | default $image) "resources" $resources }}
{{- $_ := set $runtimes $role (merge $own (omit $runtime "image" "resources")) }}
{{- end }}
{{- $storage := dict "credentials" .Values.storage.credentials }}
{{- range $field := list "output" "endpointUrl" "region" }}
{{- with get $.Values.storage $field }}
{{- $_ := set $storage $field . }}
{{- end }}
{{- end }}
{{- $_ := set $runtimes "storage" $storage }}
{{- dict
      "runtimes" $runtimes
      "watchNamespaces" .Values.watchNamespaces
      "workers" .Values.operator.workers
      "resyncSeconds" .Values.operator.resyncSeconds
      "scrapeSeconds" .Values.operator.scrapeSeconds
      "measuredSeconds" .Values.operator.measuredSeconds
      "lease" .Values.lease.enabled
      "port" 8080
      "logLevel" .Values.operator.logLevel
    | toPrettyJson }}
{{- end }}

{{- /* Rules that the operator needs wherever it looks after objects. */}}
{{- define "specop.rules" -}}
- apiGroups: [specop.dev]
  resources: [draftedendpoints, drafters, speculatordatasets, speculatortrainingjobs]
  verbs: [get, list, watch]
- apiGroups: [specop.dev]
  resources: [drafters, speculatordatasets, speculatortrainingjobs]
  verbs: [create]
- apiGroups: [specop.dev]
  resources: [draftedendpoints/status, drafters/status, speculatordatasets/status, speculatortrainingjobs/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [create, delete, list, patch, watch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, delete, list, patch, watch]
- apiGroups: [""]
  resources: [services]
  verbs: [create, delete, list, patch, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, get, patch]
{{- end }}
