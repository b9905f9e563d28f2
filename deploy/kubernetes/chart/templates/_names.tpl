{{/* The release's name, which begins the names of all objects: those of Services begin with a
letter and have no dots, and a StatefulSet labels its pods with its name and a hash. */}}
{{- define "quickwater.name" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$" .Release.Name) -}}
{{- fail (printf "the name of the release, %q: a letter first, then a-z, 0-9 and -, at most 40 in all" .Release.Name) -}}
{{- end -}}
{{- .Release.Name -}}
{{- end -}}

{{- define "quickwater.labels" -}}
app.kubernetes.io/name: quickwater
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{/* Of one component: dict "root" $ "component" "worker" */}}
{{- define "quickwater.selector" -}}
app.kubernetes.io/name: quickwater
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "quickwater.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "quickwater.ufsMounts" }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- if .Values.ufs.credentialsSecret }}
- name: ufs-credentials
  mountPath: /etc/quickwater/ufs
  readOnly: true
{{- end }}
{{- if .Values.ufs.persistentVolumeClaim }}
- name: ufs
  mountPath: /srv/ufs
{{- end }}
{{- end -}}

{{- define "quickwater.ufsVolumes" }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- with .Values.ufs.credentialsSecret }}
- name: ufs-credentials
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .Values.ufs.persistentVolumeClaim }}
- name: ufs
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- end -}}

{{- define "quickwater.resources" -}}
requests:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory }}
limits:
  cpu: {{ .cpu | quote }}
  memory: {{ .memory }}
{{- end -}}

{{- define "quickwater.probes" -}}
livenessProbe:
  httpGet:
    path: /healthz
    port: metrics
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: metrics
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end -}}

{{/* Nobody but user 65532, who may nothing. */}}
{{- define "quickwater.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: {{ .Values.fsGroup | int64 }}
fsGroupChangePolicy: OnRootMismatch
{{- end -}}

{{- define "quickwater.containerSecurity" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end -}}

{{- define "quickwater.placement" }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
