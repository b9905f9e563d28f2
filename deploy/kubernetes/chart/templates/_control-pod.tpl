{{/* The pod of the control plane, for the StatefulSet and the Deployment. */}}
{{- define "quickwater.controlPod" -}}
{{- $foundationdb := eq .Values.control.metadata "foundationdb" -}}
metadata:
  labels:
    {{- include "quickwater.labels" . | nindent 4 }}
    app.kubernetes.io/component: control
  {{- with .Values.control.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "quickwater.name" . }}
  automountServiceAccountToken: false
  # Services called quickwater would put variables like our settings into the pods.
  enableServiceLinks: false
  terminationGracePeriodSeconds: 30
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "quickwater.placement" .Values.control | trim }}
{{- . | nindent 2 }}
  {{- end }}
  securityContext:
    {{- include "quickwater.podSecurity" . | nindent 4 }}
    seccompProfile:
      type: RuntimeDefault
  {{- if $foundationdb }}
  initContainers:
    - name: foundationdb-client
      image: {{ .Values.control.foundationdb.sidecarImage }}
      args:
        - --copy-file=fdb.cluster
        - --copy-library={{ .Values.control.foundationdb.libraryVersion }}
        - --input-dir=/var/input-files
        - --output-dir=/var/output-files
        - --require-not-empty=fdb.cluster
        - --init-mode
      resources:
        {{- include "quickwater.resources" (dict "cpu" "100m" "memory" "128Mi") | nindent 8 }}
      securityContext:
        {{- include "quickwater.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - name: foundationdb-cluster
          mountPath: /var/input-files
          readOnly: true
        - name: foundationdb
          mountPath: /var/output-files
  {{- end }}
  containers:
    - name: control
      image: {{ include "quickwater.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        {{- include "quickwater.controlArgs" . | nindent 8 }}
        {{- with .Values.control.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: cluster
          containerPort: 29989
        - name: metrics
          containerPort: 29991
      {{- include "quickwater.probes" . | nindent 6 }}
      resources:
        {{- include "quickwater.resources" .Values.control.resources | nindent 8 }}
      securityContext:
        {{- include "quickwater.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - name: state
          mountPath: /var/lib/quickwater
        - name: certificates
          mountPath: /etc/quickwater/cluster
          readOnly: true
        {{- if .Values.control.adminTokenSecret }}
        - name: admin-token
          mountPath: /var/lib/quickwater/admin-token
          subPath: admin-token
          readOnly: true
        {{- end }}
        {{- if $foundationdb }}
        - name: foundationdb
          mountPath: /etc/foundationdb
        {{- end }}
        {{- with include "quickwater.ufsMounts" . | trim }}
{{- . | nindent 8 }}
        {{- end }}
  volumes:
    - name: certificates
      secret:
        secretName: {{ .Values.control.certificatesSecret }}
        defaultMode: 0440
    {{- with .Values.control.adminTokenSecret }}
    - name: admin-token
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- if $foundationdb }}
    - name: state
      emptyDir: {}
    - name: foundationdb
      emptyDir: {}
    - name: foundationdb-cluster
      {{- if .Values.control.foundationdb.operator.enabled }}
      # Made by the operator; the pod waits until it is there.
      configMap:
        name: {{ include "quickwater.name" . }}-fdb-config
        items:
          - key: cluster-file
            path: fdb.cluster
      {{- else }}
      secret:
        secretName: {{ .Values.control.foundationdb.clusterFileSecret }}
        defaultMode: 0440
      {{- end }}
    {{- end }}
    {{- with include "quickwater.ufsVolumes" . | trim }}
{{- . | nindent 4 }}
    {{- end }}
{{- end -}}
