{{/* Settings of the operator. Names are those of proa_operator.settings. */}}
{{- define "proa.env" -}}
- name: HOME
  value: /tmp
- name: PROA_POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: PROA_OPERATOR_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: PROA_OPERATOR_LABELS
  value: {{ include "proa.selector" . | fromYaml | toJson | squote }}
- name: PROA_LEASE_NAME
  value: {{ include "proa.name" . }}
- name: PROA_WATCH_NAMESPACES
  value: {{ include "proa.namespaces" . | fromJsonArray | join "," | quote }}
- name: PROA_OPERATOR_IMAGE
  value: {{ include "proa.image" . }}
{{- $own := printf "proa-worker-cpu:%s" .Chart.AppVersion }}
- name: PROA_ENGINE_IMAGE_NATIVE
  value: {{ .Values.engineImages.native | default $own }}
- name: PROA_ENGINE_IMAGE_SIM
  value: {{ .Values.engineImages.sim | default $own }}
{{- with .Values.engineImages.vllm }}
- name: PROA_ENGINE_IMAGE_VLLM
  value: {{ . }}
{{- end }}
- name: PROA_IMAGE_PULL_POLICY
  value: {{ .Values.image.pullPolicy }}
{{- with .Values.image.pullSecrets }}
- name: PROA_IMAGE_PULL_SECRETS
  value: {{ join "," . | quote }}
{{- end }}
{{- with include "proa.scrapers" . }}
- name: PROA_PROMETHEUS_SELECTOR
  value: {{ squote . }}
{{- end }}
{{- with .Values.metrics.prometheus.url }}
- name: PROA_PROMETHEUS_URL
  value: {{ . }}
{{- end }}
{{- $net := .Values.modelDownload }}
{{- $env := dict "HF_ENDPOINT" $net.hfEndpoint "HTTPS_PROXY" $net.proxy.https "HTTP_PROXY" $net.proxy.http "NO_PROXY" $net.proxy.exceptions }}
{{- range $name, $value := $env }}{{ if not $value }}{{ $_ := unset $env $name }}{{ end }}{{ end }}
{{- with $env }}
- name: PROA_DOWNLOAD_ENV
  value: {{ toJson . | squote }}
{{- end }}
{{- with $net.caConfigMap }}
- name: PROA_DOWNLOAD_CA
  value: {{ . }}
{{- end }}
{{- with .Values.devices.rdmaResource }}
- name: PROA_RDMA_RESOURCE
  value: {{ . }}
{{- end }}
- name: PROA_DEVICE_GROUPS
  value: {{ join "," .Values.devices.groups | quote }}
- name: PROA_LOG_FORMAT
  value: {{ .Values.log.format }}
{{- end -}}
