{{/* What the names of this release's objects begin with; room is left for what is appended: the test's Cell names are the longest, 52 at most. */}}
{{- define "cellmesh.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 38 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 38 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selectors select by; never with a version, for selectors cannot change. Takes (dict "root" $ "component" NAME). */}}
{{- define "cellmesh.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of every object. Takes (dict "root" $ "component" NAME). */}}
{{- define "cellmesh.labels" -}}
{{ include "cellmesh.selectorLabels" . }}
app.kubernetes.io/part-of: cellmesh
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image's name. Takes (dict "root" $ "image" {repository, tag, digest}). */}}
{{- define "cellmesh.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{/* Name of a component's ServiceAccount. Takes (dict "root" $ "component" NAME "account" {create, name}). */}}
{{- define "cellmesh.serviceAccountName" -}}
{{- if .account.create -}}
{{ default (printf "%s-%s" (include "cellmesh.fullname" .root) .component) .account.name }}
{{- else -}}
{{ required (printf "%s.serviceAccount.name: name the account that is to be used, since %s.serviceAccount.create is false" .component .component) .account.name }}
{{- end -}}
{{- end -}}

{{/* Where discovery is: the base URL, without a mesh. */}}
{{- define "cellmesh.discoveryURL" -}}
http://{{ include "cellmesh.fullname" . }}-discovery.{{ .Release.Namespace }}.svc:{{ .Values.discovery.service.port }}
{{- end -}}

{{/* A namespace whose Cells are served: the release's, or else the first that is. */}}
{{- define "cellmesh.cellNamespace" -}}
{{- if or (not .Values.watchNamespaces) (has .Release.Namespace .Values.watchNamespaces) -}}
{{ .Release.Namespace }}
{{- else -}}
{{ first .Values.watchNamespaces }}
{{- end -}}
{{- end -}}

{{/* What the `restricted` Pod Security Standard asks of a pod. */}}
{{- define "cellmesh.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* And of a container. */}}
{{- define "cellmesh.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- end -}}

{{/* What the reconciler may do with Cells and their children in a namespace: rules of a Role or ClusterRole. */}}
{{- define "cellmesh.reconcilerRules" -}}
- apiGroups: [cellmesh.dev]
  resources: [cells]
  verbs: [list, watch]
- apiGroups: [cellmesh.dev]
  resources: [cells/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [list, watch, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create, patch]
{{- end -}}

{{/* What discovery may do in a namespace whose Cells it tells of. */}}
{{- define "cellmesh.discoveryRules" -}}
- apiGroups: [cellmesh.dev]
  resources: [cells]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- end -}}
