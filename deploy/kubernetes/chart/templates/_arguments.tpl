{{/* What the processes are told, as lists of YAML. Without extraArgs, which may repeat none of it. */}}

{{- define "quickwater.workerArgs" -}}
{{- $worker := .Values.worker -}}
- worker
- --dir=/var/lib/quickwater
- {{ printf "--capacity=%s" $worker.capacity | quote }}
- {{ printf "--memory=%s" $worker.memory | quote }}
- --cluster-certificates=/etc/quickwater/cluster
- --control={{ include "quickwater.name" . }}-control.{{ .Release.Namespace }}.svc:29989
- --node-id=$(NODE_NAME)
- --advertise=$(POD_IP):29988
- --s3-listen=0.0.0.0:29998
- --metrics-listen=0.0.0.0:29991
- --shutdown-grace={{ $worker.graceSeconds }}s
- --log-format=json
{{- if $worker.s3TlsSecret }}
- --s3-tls-certificate=/etc/quickwater/s3-tls/tls.crt
- --s3-tls-key=/etc/quickwater/s3-tls/tls.key
{{- end }}
{{- if .Values.ebpf.enabled }}
{{ include "quickwater.ebpfArgs" . }}
{{- end }}
{{ include "quickwater.ufsArgs" . }}
{{- end -}}

{{- define "quickwater.controlArgs" -}}
- control
- --dir=/var/lib/quickwater
- {{ printf "--memory=%s" .Values.control.memory | quote }}
- --cluster-certificates=/etc/quickwater/cluster
- --cluster-listen=0.0.0.0:29989
- --cluster-lease={{ .Values.control.lease }}
# No TLS there: admin verbs run inside the pod, or through a port-forward.
- --admin-listen=127.0.0.1:29990
- --metrics-listen=0.0.0.0:29991
- --log-format=json
{{ include "quickwater.ufsArgs" . }}
{{- range .Values.mounts }}
- {{ printf "--mount=%s" . | quote }}
{{- end }}
{{- if eq .Values.control.metadata "foundationdb" }}
- --metadata-engine=foundationdb
- --fdb-cluster-file=/etc/foundationdb/fdb.cluster
- --fdb-client-library=/etc/foundationdb/lib/libfdb_c.so
- {{ printf "--fdb-key-prefix=%s" .Values.control.foundationdb.keyPrefix | quote }}
{{- end }}
{{- end -}}

{{/* Arguments that control plane and workers share. */}}
{{- define "quickwater.ufsArgs" -}}
- {{ printf "--ufs=%s" .Values.ufs.uri | quote }}
{{- with .Values.ufs.options }}
- {{ printf "--ufs-options=%s" . | quote }}
{{- end }}
{{- end -}}

{{/* What the loader of eBPF programs and the worker are told, so that what is loaded fits. */}}
{{- define "quickwater.ebpfArgs" -}}
- --threads={{ .Values.ebpf.threads }}
{{- with .Values.ebpf.service }}
- --ebpf-service={{ . }}
- --ebpf-local=$(POD_IP):29998
{{- end }}
{{- end -}}
