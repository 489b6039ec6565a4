{{- define "gh-assets.labels" -}}
app.kubernetes.io/name: gh-assets
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gh-assets.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}

{{- define "gh-assets.environment" -}}
- name: DAGSTER_HOME
  value: /opt/dagster
- name: DAGSTER_CURRENT_IMAGE
  value: {{ include "gh-assets.image" . | quote }}
{{- end -}}

{{- define "gh-assets.sources" -}}
- configMapRef:
    name: {{ .Release.Name }}-settings
- secretRef:
    name: {{ .Values.secret }}
{{- end -}}

{{- define "gh-assets.mounts" -}}
- name: instance
  mountPath: /opt/dagster/dagster.yaml
  subPath: dagster.yaml
- name: instance
  mountPath: /opt/dagster/workspace.yaml
  subPath: workspace.yaml
- name: work
  mountPath: /work
{{- end -}}

{{- define "gh-assets.volumes" -}}
- name: instance
  configMap:
    name: {{ .Release.Name }}-instance
- name: work
  emptyDir: {}
{{- end -}}

{{- define "gh-assets.pod" -}}
serviceAccountName: {{ .Release.Name }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  fsGroup: 10001
volumes:
  {{- include "gh-assets.volumes" . | nindent 2 }}
{{- end -}}

{{- define "gh-assets.container" -}}
image: {{ include "gh-assets.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
env:
  {{- include "gh-assets.environment" . | nindent 2 }}
envFrom:
  {{- include "gh-assets.sources" . | nindent 2 }}
volumeMounts:
  {{- include "gh-assets.mounts" . | nindent 2 }}
{{- end -}}
