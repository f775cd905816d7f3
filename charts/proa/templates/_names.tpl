{{/* Name of every namespaced object of this release. */}}
{{- define "proa.name" -}}
{{- $name := ternary .Release.Name (printf "%s-proa" .Release.Name) (contains "proa" .Release.Name) -}}
{{- trunc 40 $name | trimSuffix "-" -}}
{{- end -}}

{{/* Name of cluster-scoped objects: releases of the same name in two namespaces must not share them. */}}
{{- define "proa.clusterName" -}}
{{- printf "%s-%s" (include "proa.name" .) .Release.Namespace | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "proa.selector" -}}
app.kubernetes.io/name: proa
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "proa.labels" -}}
{{ include "proa.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "proa.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" when the operator watches every namespace, so that its rights have to be cluster-wide. */}}
{{- define "proa.watchesAll" -}}
{{- if and (eq .Values.rbac.mode "Cluster") (not .Values.watchNamespaces) -}}true{{- end -}}
{{- end -}}

{{/* JSON list of the watched namespaces; empty when all are. */}}
{{- define "proa.namespaces" -}}
{{- if include "proa.watchesAll" . -}}
[]
{{- else -}}
{{ .Values.watchNamespaces | default (list .Release.Namespace) | uniq | sortAlpha | toJson }}
{{- end -}}
{{- end -}}

{{- define "proa.prometheusPort" -}}
{{- $url := urlParse . -}}
{{- $given := regexFind ":[0-9]+$" $url.host -}}
{{- if $given }}{{ trimPrefix ":" $given }}{{ else }}{{ ternary 443 80 (eq $url.scheme "https") }}{{ end -}}
{{- end -}}

{{- define "proa.scrapers" -}}
{{- with .Values.metrics.prometheus -}}
{{- if or .namespaceLabels .podLabels -}}
{{ dict "namespaceLabels" .namespaceLabels "podLabels" .podLabels | toJson }}
{{- end -}}
{{- end -}}
{{- end -}}
