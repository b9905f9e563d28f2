{{/* Loads programs and keeps them; the worker beside it gets no right by that. */}}
{{- define "quickwater.ebpfLoader" -}}
- name: ebpf-loader
  image: {{ required "ebpf.image: Quickwater has no eBPF loader yet, leave ebpf.enabled off" .Values.ebpf.image }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- with .Values.ebpf.args }}
  args:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  resources:
    {{- include "quickwater.resources" (dict "cpu" "100m" "memory" "128Mi") | nindent 4 }}
  securityContext:
    privileged: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    # Capabilities of a container are kept by root alone.
    runAsNonRoot: false
    runAsUser: 0
    seccompProfile:
      type: RuntimeDefault
    capabilities:
      drop: ["ALL"]
      add: ["BPF", "NET_ADMIN", "PERFMON"]
  volumeMounts:
    - name: bpffs
      mountPath: /sys/fs/bpf
{{- end -}}
